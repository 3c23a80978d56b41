"""A member of a consumer group that uses kafka-python.

It prints the events that Kafka's VerifiableConsumer prints: see
harness/member.go.

    kafka_python_member.py BROKER TOPIC GROUP ASSIGNOR
"""

import json
import signal
import sys
import time

from kafka import KafkaConsumer
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}


def say(name, partitions):
    # One write: the listener runs on a thread of the client's.
    sys.stdout.write(json.dumps({"name": name, "timestamp": int(time.time() * 1000), "partitions": partitions}) + "\n")
    sys.stdout.flush()


def plain(partitions):
    return [{"topic": p.topic, "partition": p.partition} for p in partitions]


class Listener(ConsumerRebalanceListener):
    def on_partitions_assigned(self, assigned):
        say("partitions_assigned", plain(assigned))

    def on_partitions_revoked(self, revoked):
        say("partitions_revoked", plain(revoked))

    def on_partitions_lost(self, lost):
        say("partitions_revoked", plain(lost))


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
        say("records_consumed", [
            {"topic": p.topic, "partition": p.partition, "minOffset": rs[0].offset, "maxOffset": rs[-1].offset} for p, rs in polled.items()
        ])
        try:
            consumer.commit({p: OffsetAndMetadata(rs[-1].offset + 1, "", -1) for p, rs in polled.items()})
        except KafkaError as e:
            print(repr(e), file=sys.stderr)
    consumer.close()
    say("shutdown_complete", [])


main()
