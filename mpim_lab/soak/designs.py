"""Designs that are soaked: the correct one, and naive ones with the faults that bite them.

Other faults may bite them, too, if other messages happen to come at the wrong moment: `any worker`
loses the order only where a later message of the same conversation is done before the one that was
hit.
"""

from collections.abc import Callable
from typing import Any

from mpim_lab.chapters.ch04_ordering.designs import DELIVERY_MODES, ORDERING_DESIGNS
from mpim_lab.chapters.ch04_ordering.naive import UnfencedWorker
from mpim_lab.chapters.shared.designs import Design, ordered_worker, partitioned_sender
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker

ATTEMPTS = 5  # of a sender, before it gives a message up
BATCH_SIZE = 3  # entries in hand at once: a commit may be of several
# no message here is poison
LENIENT_RETRY = RetryPolicy(max_attempts=20, backoff=Backoff(initial_s=0.004, max_s=0.02))


def _in_order(kind: Callable[..., Any]) -> Design:
    return Design(
        partitioned_sender(ATTEMPTS),
        ordered_worker(kind, retry=LENIENT_RETRY, batch_size=BATCH_SIZE),
        is_partitioned=True,
    )


DESIGNS = {
    "correct": _in_order(OrderedWorker),
    "no fence": _in_order(UnfencedWorker),
    "any worker": ORDERING_DESIGNS["any worker"],
    "at least once": DELIVERY_MODES["at least once"],
    "at most once": DELIVERY_MODES["at most once"],
}

# design → a fault → what becomes of its message in every run where that is certain
# (`ScheduleResult.conclusive`)
DETECTABLE_FAULTS = {
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
NAIVE_DESIGNS = {
    "no fence": {"twice"},
    "any worker": {"out of order"},
    "at least once": {"twice", "out of order"},
    "at most once": {"lost", "twice", "out of order"},
}
