"""The designs of chapter 4: who may work on a conversation, and the three guarantees beside each other."""

from mpim_lab.chapters.ch02_streams.naive import NoAckWorker
from mpim_lab.chapters.ch03_idempotency.naive import NoCheck
from mpim_lab.chapters.ch04_ordering.naive import RetryListSender, UnfencedWorker
from mpim_lab.chapters.shared.designs import (
    ATTEMPTS,
    STREAM,
    Design,
    Setting,
    group_worker,
    kept_id,
    numbered,
    ordered_worker,
)
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker


class HopefulSender:
    """Send once; an error is passed on."""

    def __init__(self, setting: Setting) -> None:
        self._stream = setting.alice.stream(STREAM)

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> str:
        """Append one entry."""
        return await self._stream.add({"data": payload, "id": id or ""})


_IN_ORDER = Design(numbered(ATTEMPTS), ordered_worker(OrderedWorker), is_partitioned=True)
ORDERING_DESIGNS = {
    "any worker": Design(kept_id, group_worker(IdempotencyStore)),
    "no fence": Design(numbered(ATTEMPTS), ordered_worker(UnfencedWorker), is_partitioned=True),
    "sound": _IN_ORDER,
}
MODES = {
    "at most once": Design(HopefulSender, group_worker(NoCheck, NoAckWorker)),
    "at least once": Design(lambda setting: RetryListSender(setting.alice.stream(STREAM)), group_worker(NoCheck)),
    "exactly once in effect": _IN_ORDER,
}
