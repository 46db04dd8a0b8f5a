"""SlotQueue: who has a place and who is next.

The rule of the pool's fairness, without connections, clock or tasks.
"""

from collections import OrderedDict
from dataclasses import dataclass

from mpim_lab.errors import QueueFull
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds


@dataclass(eq=False)
class Ticket:
    """One caller's ticket.

    A position in the queue and, once `acquired_at` is set, a slot of the pool.

    who: the name to show if it stays long. caller: whoever is not to wait for itself when the pool
    is closed.
    """

    who: str
    requested_at: float
    acquired_at: float | None = None
    server: str = ""
    caller: object = None

    @property
    def waited_s(self) -> float:
        """How long it waited; 0 while it does."""
        return 0.0 if self.acquired_at is None else self.acquired_at - self.requested_at

    def held_s(self, now: float) -> float:
        """How long it has held its slot; 0 while it waits."""
        return 0.0 if self.acquired_at is None else now - self.acquired_at


class SlotQueue:
    """A FIFO of slots.

    At most `slots` callers hold one, at most `max_waiting` wait for one, first come, first served.

    A slot that becomes free passes to the first in the queue in the same step: there is no moment
    at which it is free while somebody waits, so whoever comes later cannot slip in. For the same
    reason whoever leaves, for whatever cause, names the next one, even if it had been given its
    slot a moment before and not yet heard of it.

        >>> queue = SlotQueue(slots=1, max_waiting=5)
        >>> ann, ben, cid = (queue.acquire(name, now=0.0) for name in ("Ann", "Ben", "Cid"))
        >>> ann.acquired_at, ben.acquired_at
        (0.0, None)
        >>> queue.release(ann, now=3.0).who            # Ann is done: it is Ben's turn
        'Ben'
        >>> ben.waited_s
        3.0
        >>> queue.release(ben, now=3.0).who            # Ben was cancelled before he heard of it: Cid's
        'Cid'
        >>> queue.release(cid, now=4.0), queue.release(cid, now=4.0)
        (None, None)
    """

    def __init__(self, slots: int, max_waiting: int) -> None:
        check_bounds(1, MAX_INT, max_connections=slots)
        check_bounds(0, MAX_INT, max_waiting=max_waiting)
        self.slots, self.max_waiting = slots, max_waiting
        self._holders: OrderedDict[Ticket, None] = OrderedDict()
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def in_use(self) -> int:
        """Slots taken."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """Callers without a slot."""
        return len(self._waiting)

    @property
    def holders(self) -> list[Ticket]:
        """Who holds a slot, longest first."""
        return list(self._holders)

    def acquire(self, who: str, now: float) -> Ticket:
        """Join the queue; the ticket says whether there was a slot at once. Raises QueueFull."""
        ticket = Ticket(who, now)
        if len(self._holders) < self.slots:
            self._grant(ticket, now)
            return ticket
        if len(self._waiting) >= self.max_waiting:
            raise QueueFull(
                f"all {self.slots:,} connections are in use and {self.max_waiting:,} callers wait already"
            )
        self._waiting[ticket] = None
        return ticket

    def release(self, ticket: Ticket, now: float) -> Ticket | None:
        """Release the slot, or stop waiting; return who has the slot from now on. Idempotent."""
        self._waiting.pop(ticket, None)
        if ticket not in self._holders:
            return None
        del self._holders[ticket]
        if not self._waiting:
            return None
        following, _ = self._waiting.popitem(last=False)
        self._grant(following, now)
        return following

    def cancel_waiters(self) -> list[Ticket]:
        """Cancel everybody who waits, and return who they are; slots are not touched."""
        dismissed = list(self._waiting)
        self._waiting.clear()
        return dismissed

    def _grant(self, ticket: Ticket, now: float) -> None:
        ticket.acquired_at = now
        self._holders[ticket] = None
