"""A member of a consumer group that uses aiokafka.

It prints the events that Kafka's VerifiableConsumer prints: see
harness/member.go.

    aiokafka_member.py BROKER TOPIC GROUP ASSIGNOR
"""

import asyncio
import signal
import sys

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError
from member import Speaker, plain, say, say_polled

ASSIGNORS = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor}


class Listener(Speaker, ConsumerRebalanceListener):
    pass


async def main():
    broker, topic, group, assignor = sys.argv[1:]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
        session_timeout_ms=10000, heartbeat_interval_ms=500, metadata_max_age_ms=1000,
        partition_assignment_strategy=[ASSIGNORS[assignor]],
    )
    stop = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.append, True)
    consumer.subscribe([topic], listener=Listener())
    await consumer.start()
    while not stop:
        try:
            polled = await consumer.getmany(timeout_ms=200)
        except KafkaError as e:
            print(repr(e), file=sys.stderr)
            continue
        if not polled:
            continue
        say_polled(polled)
        try:
            await consumer.commit({p: rs[-1].offset + 1 for p, rs in polled.items()})
        except KafkaError as e:
            print(repr(e), file=sys.stderr)
    # It does not tell its listener when it ends.
    say("partitions_revoked", partitions=plain(consumer.assignment()))
    await consumer.stop()
    say("shutdown_complete", partitions=[])


asyncio.run(main())
