"""WaitingLine: who has a place and who is next. The rule of the pool's fairness, without connections, clock or tasks."""

from collections import OrderedDict
from dataclasses import dataclass

from mpim_lab.errors import QueueFull
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds


@dataclass(eq=False)
class Ticket:
    """One caller's place in the line and, once `placed_at` is set, in the pool.

    who: the name to show if it stays long. caller: whoever is not to wait for itself when the pool is closed.
    """

    who: str
    asked_at: float
    placed_at: float | None = None
    server: str = ""
    caller: object = None

    @property
    def waited_s(self) -> float:
        """How long it stood in line; 0 while it does."""
        return 0.0 if self.placed_at is None else self.placed_at - self.asked_at

    def held_s(self, now: float) -> float:
        """How long it has had its place; 0 while it waits."""
        return 0.0 if self.placed_at is None else now - self.placed_at


class WaitingLine:
    """At most `places` have a place, at most `max_waiting` wait for one, first come, first served.

    A place that becomes free passes to the first in line in the same step: there is no moment at which it is free while
    somebody waits, so whoever comes later cannot slip in. For the same reason whoever leaves, for whatever cause,
    names the next one, even if it had been given its place a moment before and not yet heard of it.

        >>> line = WaitingLine(places=1, max_waiting=5)
        >>> ann, ben, cid = (line.ask(name, now=0.0) for name in ("Ann", "Ben", "Cid"))
        >>> ann.placed_at, ben.placed_at
        (0.0, None)
        >>> line.leave(ann, now=3.0).who            # Ann is done: it is Ben's turn
        'Ben'
        >>> ben.waited_s
        3.0
        >>> line.leave(ben, now=3.0).who            # Ben was cancelled before he heard of it: Cid's
        'Cid'
        >>> line.leave(cid, now=4.0), line.leave(cid, now=4.0)
        (None, None)
    """

    def __init__(self, places: int, max_waiting: int) -> None:
        check_bounds(1, MAX_INT, max_connections=places)
        check_bounds(0, MAX_INT, max_waiting=max_waiting)
        self.places, self.max_waiting = places, max_waiting
        self._placed: OrderedDict[Ticket, None] = OrderedDict()
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def in_use(self) -> int:
        """Places taken."""
        return len(self._placed)

    @property
    def waiting(self) -> int:
        """Callers without a place."""
        return len(self._waiting)

    @property
    def placed(self) -> list[Ticket]:
        """Who has a place, longest first."""
        return list(self._placed)

    def ask(self, who: str, now: float) -> Ticket:
        """Join the line; the ticket says whether there was a place at once. Raises QueueFull."""
        ticket = Ticket(who, now)
        if len(self._placed) < self.places:
            self._place(ticket, now)
            return ticket
        if len(self._waiting) >= self.max_waiting:
            raise QueueFull(f"all {self.places:,} connections are in use and {self.max_waiting:,} callers wait already")
        self._waiting[ticket] = None
        return ticket

    def leave(self, ticket: Ticket, now: float) -> Ticket | None:
        """This one is done, with its place or with waiting; gives who has its place from now on. Twice is harmless."""
        self._waiting.pop(ticket, None)
        if ticket not in self._placed:
            return None
        del self._placed[ticket]
        if not self._waiting:
            return None
        following, _ = self._waiting.popitem(last=False)
        self._place(following, now)
        return following

    def dismiss(self) -> list[Ticket]:
        """Send everybody away who waits, and say who they are; places are not touched."""
        dismissed = list(self._waiting)
        self._waiting.clear()
        return dismissed

    def _place(self, ticket: Ticket, now: float) -> None:
        ticket.placed_at = now
        self._placed[ticket] = None
