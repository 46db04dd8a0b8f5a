"""The designs of chapter 3: how repeats are recognised."""

from mpim_lab.chapters.ch03_idempotency.naive import (
    CheckThenSet,
    FreshIdSender,
    LibrarySender,
    MarkFirst,
)
from mpim_lab.chapters.shared.designs import (
    STREAM,
    Design,
    DesignContext,
    group_worker,
    idempotent_sender,
)
from mpim_lab.mq.idempotency.store import IdempotencyStore

LIBRARY_TIMEOUT_S = 0.4


def _library(context: DesignContext) -> LibrarySender:
    return LibrarySender(context.url, context.alice, STREAM, timeout_s=LIBRARY_TIMEOUT_S)


IDEMPOTENCY_DESIGNS = {
    "fresh id": Design(
        lambda context: FreshIdSender(context.alice.stream(STREAM)), group_worker(IdempotencyStore)
    ),
    "library retries": Design(_library, group_worker(IdempotencyStore)),
    "check then set": Design(idempotent_sender, group_worker(CheckThenSet)),
    "mark first": Design(idempotent_sender, group_worker(MarkFirst)),
    "correct": Design(idempotent_sender, group_worker(IdempotencyStore)),
}
