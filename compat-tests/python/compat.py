"""The command language of the compatibility tests, spoken by librdkafka through confluent-kafka.

usage: compat.py host:port
"""

import base64
import sys
import time
import traceback

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

LIMIT = 60
bootstrap = sys.argv[1]
out = sys.stdout
_admin = None


def conf(text):
    return dict(kv.split("=", 1) for kv in text.split(",")) if text != "-" else {}


def unpack(text):
    return None if text == "~" else base64.b64decode(text)


def pack(data):
    return "~" if data is None else base64.b64encode(data).decode()


def admin():
    global _admin
    if _admin is None:
        _admin = AdminClient({"bootstrap.servers": bootstrap})
    return _admin


def consumer(more):
    c = {
        "bootstrap.servers": bootstrap,
        "group.id": "unused",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": False,
        "allow.auto.create.topics": False,
    }
    c.update(more)
    return Consumer(c)


def produce(path, more):
    c = {"bootstrap.servers": bootstrap, "message.max.bytes": 8388608, "linger.ms": 5}
    c.update(conf(more))
    p = Producer(c)
    with open(path, encoding="ascii") as f:
        lines = [line.rstrip("\n").split("\t") for line in f]
    acks = [None] * len(lines)

    def acknowledged(i):
        def done(err, msg):
            acks[i] = err or (msg.partition(), msg.offset(), msg.timestamp()[1])

        return done

    for i, (topic, partition, _, timestamp, key, value, headers) in enumerate(lines):
        more_args = {}
        if headers != "-":
            pairs = [h.split(":") for h in headers.split(",")]
            more_args["headers"] = [(unpack(k).decode(), unpack(v)) for k, v in pairs]
        if timestamp != "-1":
            more_args["timestamp"] = int(timestamp)
        p.produce(topic, unpack(value), unpack(key), int(partition), on_delivery=acknowledged(i), **more_args)
        p.poll(0)
    if p.flush(LIMIT):
        raise RuntimeError("records left in the queue")
    for a in acks:
        if isinstance(a, KafkaError):
            raise KafkaException(a)
        # With acks=0 nobody knows the offset.
        print(a[0], -1 if a[1] is None else max(a[1], -1), a[2], sep="\t", file=out)


def consume(topic, partition, start, count, more):
    c = consumer(conf(more))
    try:
        tp = TopicPartition(topic, int(partition))
        if start == "earliest":
            tp.offset = OFFSET_BEGINNING
        elif start.startswith("@"):
            tp.offset = int(start[1:])
            tp = c.offsets_for_times([tp], timeout=LIMIT)[0]
        else:
            tp.offset = int(start)
        c.assign([tp])
        left, end = int(count), time.monotonic() + LIMIT
        while left:
            if time.monotonic() > end:
                raise RuntimeError(f"{left} of {count} records of {tp} are missing")
            for m in c.consume(min(left, 1000), 0.5):
                if m.error():
                    raise KafkaException(m.error())
                hs = ",".join(f"{pack(k.encode())}:{pack(v)}" for k, v in m.headers() or [])
                kind, ts = m.timestamp()
                if kind == TIMESTAMP_NOT_AVAILABLE:
                    ts = -1
                print(m.topic(), m.partition(), m.offset(), ts, pack(m.key()), pack(m.value()), hs or "-", sep="\t", file=out)
                left -= 1
    finally:
        c.close()


def offsets(topic, partition):
    c = consumer({})
    try:
        low, high = c.get_watermark_offsets(TopicPartition(topic, int(partition)), timeout=LIMIT)
        print(low, high, sep="\t", file=out)
    finally:
        c.close()


def time_(topic, partition, timestamp):
    c = consumer({})
    try:
        tp = c.offsets_for_times([TopicPartition(topic, int(partition), int(timestamp))], timeout=LIMIT)[0]
        if tp.error:
            raise KafkaException(tp.error)
        print(-1 if tp.offset in (OFFSET_END, -1) else tp.offset, file=out)
    finally:
        c.close()


def result(futures):
    for f in futures.values():
        return f.result(LIMIT)


def create(topic, partitions, replicas, configs):
    result(admin().create_topics([NewTopic(topic, int(partitions), int(replicas), config=conf(configs))]))


def delete(topic):
    result(admin().delete_topics([topic]))


def grow(topic, count):
    result(admin().create_partitions([NewPartitions(topic, int(count))]))


def describe(topic):
    t = admin().list_topics(topic, timeout=LIMIT).topics[topic]
    if t.error:
        raise KafkaException(t.error)
    for i in sorted(t.partitions):
        p = t.partitions[i]
        print(i, p.leader, ",".join(map(str, p.replicas)), ",".join(map(str, p.isrs)), sep="\t", file=out)


def alter(topic, configs):
    entries = [
        ConfigEntry(k, v or None, incremental_operation=AlterConfigOpType.SET if v else AlterConfigOpType.DELETE)
        for k, v in conf(configs).items()
    ]
    result(admin().incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)]))


def config(topic, *names):
    entries = result(admin().describe_configs([ConfigResource(ResourceType.TOPIC, topic)]))
    for name in sorted(names):
        if name in entries:
            e = entries[name]
            print(name, e.value, str(e.is_default).lower(), sep="\t", file=out)


def deleterecords(topic, partition, offset):
    print(result(admin().delete_records([TopicPartition(topic, int(partition), int(offset))])).low_watermark, file=out)


def cluster():
    d = admin().describe_cluster().result(LIMIT)
    print(d.controller.id, ",".join(str(n.id) for n in sorted(d.nodes, key=lambda n: n.id)), sep="\t", file=out)


producers = {}


def open_(name, id, timeout):
    p = Producer({"bootstrap.servers": bootstrap, "transactional.id": id, "transaction.timeout.ms": int(timeout), "linger.ms": 0})
    p.init_transactions(LIMIT)
    producers[name] = p


def send(name, topic, partition, value):
    p, acks = producers[name], []
    p.produce(topic, unpack(value), partition=int(partition), on_delivery=lambda err, msg: acks.append(err or msg.offset()))
    p.flush(LIMIT)
    if isinstance(acks[0], KafkaError):
        raise KafkaException(acks[0])
    print(acks[0], file=out)


def sendoffsets(name, group, topic, partition, offset):
    c = consumer({"group.id": group})
    try:
        producers[name].send_offsets_to_transaction([TopicPartition(topic, int(partition), int(offset))], c.consumer_group_metadata(), LIMIT)
    finally:
        c.close()


commands = {
    "open": open_,
    "begin": lambda name: producers[name].begin_transaction(),
    "send": send,
    "sendoffsets": sendoffsets,
    "commit": lambda name: producers[name].commit_transaction(LIMIT),
    "abort": lambda name: producers[name].abort_transaction(LIMIT),
    "close": lambda name: producers.pop(name),
    "produce": produce,
    "consume": consume,
    "offsets": offsets,
    "time": time_,
    "create": create,
    "delete": delete,
    "partitions": grow,
    "describe": describe,
    "alter": alter,
    "config": config,
    "deleterecords": deleterecords,
    "cluster": cluster,
}

for line in sys.stdin:
    word, *args = line.rstrip("\n").split("\t")
    try:
        commands[word](*args)
        print(".", file=out)
    except KafkaException as e:
        err = e.args[0]
        print("!", err.code(), " ".join(str(err).split()), sep="\t", file=out)
    except Exception as e:  # noqa: BLE001
        traceback.print_exc()
        print("!", -1, type(e).__name__, " ".join(str(e).split()), sep="\t", file=out)
    out.flush()
