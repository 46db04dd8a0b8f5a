"""The designs of chapter 3: how repeats are recognised."""

from mpim_lab.chapters.ch03_idempotency.naive import CheckThenSet, FreshIdSender, LibrarySender, MarkFirst
from mpim_lab.chapters.shared.designs import STREAM, Design, Setting, group_worker, kept_id
from mpim_lab.mq.idempotency.store import IdempotencyStore

LIBRARY_TIMEOUT_S = 0.4


def _library(setting: Setting) -> LibrarySender:
    return LibrarySender(setting.url, setting.alice, STREAM, timeout_s=LIBRARY_TIMEOUT_S)


IDEMPOTENCY_DESIGNS = {
    "fresh id": Design(lambda setting: FreshIdSender(setting.alice.stream(STREAM)), group_worker(IdempotencyStore)),
    "library retries": Design(_library, group_worker(IdempotencyStore)),
    "check then set": Design(kept_id, group_worker(CheckThenSet)),
    "mark first": Design(kept_id, group_worker(MarkFirst)),
    "sound": Design(kept_id, group_worker(IdempotencyStore)),
}
