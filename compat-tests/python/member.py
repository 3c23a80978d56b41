"""What the members of groups and the movers of records print: the events of Kafka's VerifiableConsumer, see harness/member.go."""

import json
import sys
import time


def say(name, **what):
    # One write: listeners run on threads of their clients.
    sys.stdout.write(json.dumps({"name": name, "timestamp": int(time.time() * 1000), **what}) + "\n")
    sys.stdout.flush()


def plain(partitions):
    return [{"topic": p.topic, "partition": p.partition} for p in partitions]


class Speaker:
    """A listener, to be mixed with that of a client."""

    def on_partitions_assigned(self, assigned):
        say("partitions_assigned", partitions=plain(assigned))

    def on_partitions_revoked(self, revoked):
        say("partitions_revoked", partitions=plain(revoked))

    on_partitions_lost = on_partitions_revoked


def say_polled(polled):
    """What a poll gave: records by partition."""
    say("records_consumed", partitions=[
        {"topic": p.topic, "partition": p.partition, "minOffset": rs[0].offset, "maxOffset": rs[-1].offset} for p, rs in polled.items()
    ])
