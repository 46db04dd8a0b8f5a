"""Designs that are soaked: the sound one, and naive ones with the faults that bite them wherever they strike.

Other faults may bite them, too, if other messages happen to come at the wrong moment: `any worker` loses the order only where
a later message of the same conversation is done before the struck one.
"""

from typing import Any

from mpim_lab.experiments.line_designs import (
    GROUP,
    MODES,
    ORDERING_DESIGNS,
    Design,
    Employs,
    Setting,
    Work,
    partitioned,
)
from mpim_lab.mq.backoff import Backoff
from mpim_lab.mq.effects import Effects
from mpim_lab.mq.ordered_worker import OrderedWorker
from mpim_lab.mq.partitions import Ordered
from mpim_lab.mq.producer import Producer
from mpim_lab.mq.pubsub import MessageQueue
from mpim_lab.mq.retry import RetryRule
from mpim_lab.naive.ordering import UnfencedWorker

ATTEMPTS = 5  # of a sender, before it gives a message up
PREFETCH = 3  # entries in hand at once: a commit may be of several
PATIENT = RetryRule(tries=20, backoff=Backoff(first_s=0.004, most_s=0.02))  # no message here is poison


def _gives_up(setting: Setting) -> Producer[Any]:
    append = partitioned(setting.alice).append
    return Producer(append, backoff=Backoff(first_s=0.005, most_s=0.05), attempts=ATTEMPTS)


def _in_order(kind: type[OrderedWorker]) -> Employs:
    def employ(setting: Setting, queue: MessageQueue, name: str, work: Work) -> OrderedWorker:
        async def handle(ordered: Ordered, effects: Effects) -> None:
            await work(ordered.data, effects)

        options: dict[str, Any] = {"retry": PATIENT, "prefetch": PREFETCH, "lease_ms": setting.lease_ms}
        return kind(partitioned(queue), GROUP, name, handle, **options)

    return employ


DESIGNS = {
    "sound": Design(_gives_up, _in_order(OrderedWorker), is_partitioned=True),
    "no fence": Design(_gives_up, _in_order(UnfencedWorker), is_partitioned=True),
    "any worker": ORDERING_DESIGNS["any worker"],
    "at least once": MODES["at least once"],
    "at most once": MODES["at most once"],
}

# design → a fault → what becomes of the message that it strikes, in every run without a kill, which may end a fault early
BITES = {
    "no fence": {
        "crash after work": "twice",
        "answer to the worker lost": "twice",
        "commit late": "twice",
        "zombie": "twice",
    },
    "at least once": {
        "answer lost": "twice",
        "request late": "twice",
        "sent twice": "twice",
        "crash after work": "twice",
        "answer to the worker lost": "twice",
        "commit late": "twice",
        "zombie": "twice",
    },
    "at most once": {"crash before work": "lost", "sent twice": "twice"},
}
# What may be wrong with a naive design at all
FLAWS = {
    "no fence": {"twice"},
    "any worker": {"out of order"},
    "at least once": {"twice", "out of order"},
    "at most once": {"lost", "twice", "out of order"},
}
