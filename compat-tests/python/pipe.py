"""Moves records from one topic to the same partitions of another in transactions, as a member of a group; one in seven is aborted.

An error that ends the producer ends the process.

    pipe.py BROKER INPUT OUTPUT GROUP TRANSACTIONAL_ID [CONSUMER_KEY=VALUE...]
"""

import faulthandler
import os
import signal
import sys
import traceback

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from member import say

LIMIT = 30

faulthandler.register(signal.SIGQUIT)  # where it is, as a JVM says


def retry(call, *args):
    while True:
        try:
            return call(*args)
        except KafkaException as e:
            if not e.args[0].retriable():
                raise


def rewind(consumer):
    for tp in consumer.committed(consumer.assignment(), LIMIT):
        if tp.offset < 0:
            tp.offset = 0  # the topic's first offset
        consumer.seek(tp)


def move(producer, consumer, messages, output, abort):
    try:
        producer.begin_transaction()
        ends = {}
        for m in messages:
            producer.produce(output, m.value(), m.key(), m.partition())
            ends[m.partition()] = TopicPartition(m.topic(), m.partition(), m.offset() + 1)
        retry(producer.send_offsets_to_transaction, list(ends.values()), consumer.consumer_group_metadata(), LIMIT)
        if not abort:
            retry(producer.commit_transaction, LIMIT)
            say("committed", count=len(messages))
            return
    except KafkaException as e:
        if not e.args[0].txn_requires_abort():
            raise
        say("aborted", state=e.args[0].name())
    retry(producer.abort_transaction, LIMIT)
    rewind(consumer)


def main():
    broker, topic, output, group, id, *conf = sys.argv[1:]
    config = {
        "bootstrap.servers": broker, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "isolation.level": "read_committed", "log_level": 0, "reconnect.backoff.max.ms": 500,
    }
    config.update(c.split("=", 1) for c in conf)
    consumer = Consumer(config)
    producer = Producer({
        "bootstrap.servers": broker, "transactional.id": id, "transaction.timeout.ms": 5000, "log_level": 0, "reconnect.backoff.max.ms": 500, "linger.ms": 0,
        # With "rebootstrap" librdkafka 2.16 waits for ever in send_offsets_to_transaction, for a coordinator that it has taken out of service.
        "metadata.recovery.strategy": "none",
    })
    retry(producer.init_transactions, LIMIT)
    consumer.subscribe([topic], on_assign=lambda _, ps: say("assigned", count=len(ps)))
    n = 0
    while True:
        messages = [m for m in consumer.consume(200, 0.2) if not m.error()]
        if messages:
            n += 1
            move(producer, consumer, messages, output, n % 7 == 0)


try:
    main()
except Exception as e:  # noqa: BLE001
    traceback.print_exc()
    say("failed", state=repr(e)[:100])
    os._exit(1)  # as a crash: nothing is said to the broker
