"""A member of a consumer group that uses kafka-python.

It prints the events that Kafka's VerifiableConsumer prints: see
harness/member.go.

    kafka_python_member.py BROKER TOPIC GROUP ASSIGNOR
"""

import signal
import sys

from kafka import KafkaConsumer
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata
from member import Speaker, say, say_polled

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}


class Listener(Speaker, ConsumerRebalanceListener):
    pass


def main():
    broker, topic, group, assignor = sys.argv[1:]
    consumer = KafkaConsumer(
        bootstrap_servers=broker, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
        session_timeout_ms=10000, heartbeat_interval_ms=500, metadata_max_age_ms=1000, reconnect_backoff_max_ms=500,
        partition_assignment_strategy=[ASSIGNORS[assignor]],
    )
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    consumer.subscribe([topic], listener=Listener())
    while not stop:
        try:
            polled = consumer.poll(200)
        except KafkaError as e:
            print(repr(e), file=sys.stderr)
            continue
        if not polled:
            continue
        say_polled(polled)
        try:
            consumer.commit({p: OffsetAndMetadata(rs[-1].offset + 1, "", -1) for p, rs in polled.items()})
        except KafkaError as e:
            print(repr(e), file=sys.stderr)
    consumer.close()
    say("shutdown_complete", partitions=[])


main()
