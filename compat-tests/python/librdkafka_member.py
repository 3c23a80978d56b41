"""A member of a consumer group that uses librdkafka through confluent-kafka.

It prints the events that Kafka's VerifiableConsumer prints: see
harness/member.go.

    librdkafka_member.py BROKER TOPIC GROUP KEY=VALUE...
"""

import signal
import sys

from confluent_kafka import Consumer, KafkaException, TopicPartition
from member import plain, say


def main():
    broker, topic, group, *conf = sys.argv[1:]
    config = {
        "bootstrap.servers": broker, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "topic.metadata.refresh.interval.ms": 1000, "log_level": 0, "reconnect.backoff.max.ms": 500,
    }
    config.update(c.split("=", 1) for c in conf)
    consumer = Consumer(config)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))

    def assigned(_, ps):
        say("partitions_assigned", partitions=plain(ps))

    def revoked(_, ps):
        say("partitions_revoked", partitions=plain(ps))

    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
    while not stop:
        ranges = {}
        # What is there is taken as soon as there is any: consume waits for all it was asked for.
        first = consumer.poll(0.2)
        for m in [first, *consumer.consume(500, 0)] if first else []:
            if m.error():
                continue
            low, _ = ranges.get(m.partition(), (m.offset(), 0))
            ranges[m.partition()] = (low, m.offset())
        if not ranges:
            continue
        say("records_consumed", partitions=[{"topic": topic, "partition": p, "minOffset": a, "maxOffset": b} for p, (a, b) in ranges.items()])
        try:
            consumer.commit(offsets=[TopicPartition(topic, p, b + 1) for p, (_, b) in ranges.items()], asynchronous=False)
        except KafkaException as e:
            print(e, file=sys.stderr)
    consumer.close()
    say("shutdown_complete", partitions=[])


main()
