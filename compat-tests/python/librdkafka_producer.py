"""An idempotent producer that uses librdkafka through confluent-kafka. It writes
numbers that it counts up until SIGTERM, one partition after the other.

It prints what Kafka's VerifiableProducer prints of each record.

    librdkafka_producer.py BROKERS TOPIC PARTITIONS PER_SECOND KEY=VALUE...
"""

import json
import signal
import sys
import time

from confluent_kafka import Producer


def main():
    brokers, topic, partitions, rate, *conf = sys.argv[1:]
    config = {"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 0, "log_level": 0}
    config.update(c.split("=", 1) for c in conf)
    producer = Producer(config)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))

    def answered(error, m):
        event = {"timestamp": int(time.time() * 1000), "value": m.value().decode(), "topic": topic, "partition": m.partition()}
        if error:
            event.update(name="producer_send_error", exception=error.name(), message=error.str())
        else:
            event.update(name="producer_send_success", offset=m.offset())
        print(json.dumps(event), flush=True)

    n, began = 0, time.monotonic()
    while not stop:
        while not stop and n < (time.monotonic() - began) * float(rate):
            try:
                producer.produce(topic, str(n).encode(), partition=n % int(partitions), on_delivery=answered)
                n += 1
            except BufferError:
                producer.poll(0.05)
        producer.poll(0.002)
    producer.flush(60)


main()
