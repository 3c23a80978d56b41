"""Clients of a chaos run that use librdkafka through confluent-kafka, told what to do by lines: see harness/driver.go.

Each name is a thread of its own with a producer, a consumer or both.
"""

import faulthandler
import queue
import signal
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

LIMIT = 8  # of one call, and of calling again: twice that is less than the driver waits, also on a busy machine

faulthandler.register(signal.SIGQUIT)  # where it is, as a JVM says
speaking = threading.Lock()


def failure(error):
    e = error.args[0] if isinstance(error, KafkaException) else error
    if not isinstance(e, KafkaError):
        return ["-1", repr(error)]
    # librdkafka's own errors are negative, and no answers of a broker.
    return [str(e.code() if e.code() > 0 else -1), e.name() + ": " + " ".join(e.str().split())]


def offsets(words):
    return [TopicPartition(t, int(p), int(o)) for t, p, o in zip(words[::3], words[1::3], words[2::3])]


def retry(call, *args):
    end = time.monotonic() + LIMIT
    while True:
        try:
            return call(*args, LIMIT)
        except KafkaException as e:
            if not e.args[0].retriable() or time.monotonic() > end:
                raise
        time.sleep(0.05)  # some errors come at once


class Client:
    def __init__(self):
        self.commands = queue.Queue()
        self.producer = self.consumer = None
        self.events = []
        self.done = False
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while not self.done:
            id, command, words = self.commands.get()
            lines, end = [], ["."]
            try:
                getattr(self, "do_" + command)(lines, *words)
            except Exception as e:  # noqa: BLE001
                end = ["!", *failure(e)]
            with speaking:
                sys.stdout.write("".join("\t".join([id, *line]) + "\n" for line in [*lines, end]))
                sys.stdout.flush()

    def do_producer(self, _, *pairs):
        self.producer = Producer(dict(p.split("=", 1) for p in pairs))

    def do_consumer(self, _, *pairs):
        self.consumer = Consumer(dict(p.split("=", 1) for p in pairs))

    def do_init(self, _):
        retry(self.producer.init_transactions)

    def do_begin(self, _):
        self.producer.begin_transaction()

    def do_commit(self, _):
        retry(self.producer.commit_transaction)

    def do_abort(self, _):
        retry(self.producer.abort_transaction)

    def do_send(self, lines, *words):
        ends = {}

        def answered(i, error, m):
            ends[i] = ["failed", *failure(error)] if error else ["sent", str(m.offset())]

        records = list(zip(words[::3], words[1::3], words[2::3]))
        for i, (t, p, v) in enumerate(records):
            try:
                self.producer.produce(t, v.encode(), partition=int(p), on_delivery=lambda e, m, i=i: answered(i, e, m))
            except KafkaException as e:
                ends[i] = ["failed", *failure(e)]
        while len(ends) < len(records):
            self.producer.poll(0.1)
        lines.extend(ends[i] for i in range(len(records)))

    def do_sendoffsets(self, _, *words):
        retry(self.producer.send_offsets_to_transaction, offsets(words), self.consumer.consumer_group_metadata())

    def do_assign(self, _, *words):
        self.consumer.assign(offsets(words))

    def do_subscribe(self, _, topic):
        # librdkafka does not tell the generation.
        def say(*what):
            return lambda _, ps: self.events.append([*what, *(w for p in ps for w in (p.topic, str(p.partition)))])

        self.consumer.subscribe([topic], on_assign=lambda c, ps: say("came", c.memberid(), "0")(c, ps), on_revoke=say("went"), on_lost=say("went"))

    def do_poll(self, lines, ms):
        self.events = lines
        failed = None
        for m in self.consumer.consume(60, int(ms) / 1000):
            if m.error():
                failed = failed or m.error()
                continue
            lines.append(["record", m.topic(), str(m.partition()), str(m.offset()), str(m.leader_epoch() or 0), m.value().decode()])
        if failed and not any(line[0] == "record" for line in lines):
            raise KafkaException(failed)

    def do_commitoffsets(self, lines, *words):
        lines.append(["member", self.consumer.memberid()])
        for p in self.consumer.commit(offsets=offsets(words), asynchronous=False):
            if p.error:
                raise KafkaException(p.error)

    def do_rewind(self, _):
        for tp in self.consumer.committed(self.consumer.assignment(), LIMIT):
            if tp.offset < 0:
                tp.offset = 0  # the topic's first offset
            self.consumer.seek(tp)

    def do_close(self, _):
        self.done = True
        if self.consumer:
            self.consumer.close()

    def do_drop(self, _):
        # Without a farewell: its connections are broken off when it is collected.
        self.done = True
        self.producer = self.consumer = None


def main():
    clients = {}
    for line in sys.stdin:
        id, name, command, *words = line.rstrip("\n").split("\t")
        if name not in clients:
            clients[name] = Client()
        clients[name].commands.put((id, command, words))
        if command in ("close", "drop"):
            del clients[name]


main()
