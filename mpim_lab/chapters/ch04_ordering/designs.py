"""The designs of chapter 4: who may work on a conversation, and the three delivery modes."""

from mpim_lab.chapters.ch02_streams.naive import NoAckWorker
from mpim_lab.chapters.ch03_idempotency.naive import NoCheck
from mpim_lab.chapters.ch04_ordering.naive import RetryListSender, UnfencedWorker
from mpim_lab.chapters.shared.designs import (
    ATTEMPTS,
    STREAM,
    Design,
    DesignContext,
    group_worker,
    idempotent_sender,
    ordered_worker,
    partitioned_sender,
)
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker


class FireAndForgetSender:
    """A sender that sends once; an error is passed on."""

    def __init__(self, context: DesignContext) -> None:
        self._stream = context.alice.stream(STREAM)

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> str:
        """Append one entry."""
        return await self._stream.add({"data": payload, "id": id or ""})


_IN_ORDER = Design(partitioned_sender(ATTEMPTS), ordered_worker(OrderedWorker), is_partitioned=True)
ORDERING_DESIGNS = {
    "any worker": Design(idempotent_sender, group_worker(IdempotencyStore)),
    "no fence": Design(
        partitioned_sender(ATTEMPTS), ordered_worker(UnfencedWorker), is_partitioned=True
    ),
    "correct": _IN_ORDER,
}
DELIVERY_MODES = {
    "at most once": Design(FireAndForgetSender, group_worker(NoCheck, NoAckWorker)),
    "at least once": Design(
        lambda context: RetryListSender(context.alice.stream(STREAM)), group_worker(NoCheck)
    ),
    "exactly once in effect": _IN_ORDER,
}
