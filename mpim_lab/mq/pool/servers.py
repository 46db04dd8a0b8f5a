"""Servers: which server a connection comes from, so that no more than so many are open to all of them together.

ServerShelf: one server's connections: which are idle, how one is taken, looked at, opened and closed, and counted.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from mpim_lab.errors import CommandTimeout, InvalidParameter, LoginRejected, MpimError, NotConnected
from mpim_lab.events import now
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.policies import Ageing, Load, Outage, least_busy
from mpim_lab.mq.pool.raw_connection import Wire
from mpim_lab.mq.pool.stats import ServerFigures
from mpim_lab.mq.pool.wait_queue import Ticket


class ServerShelf:
    """The connections to one server. Idle ones are taken first in, first out.

    Last in, first out, as in the sketch, has one virtue: what is not needed stays idle and can be retired. But what lies
    at the bottom is not looked at, rots unseen, and is handed out all at once when the load rises: the worst moment. First
    in, first out uses each in turn, so that a broken one is found soon and no connection is idle for longer than it takes
    to go round. The price: under a light, steady load the pool does not shrink. It is bounded anyway, and under no load the
    pool's keeper retires what `max_idle_s` says.

    Opening and closing are awaited outside any lock: there is none. Each step that changes a count is done without awaiting.
    """

    def __init__(self, address: Address, name: str, ageing: Ageing, backoff: Backoff, connect_timeout_s: float) -> None:
        self.address, self.url = address, str(address)
        self.in_use = self.opened = self.opening = self.last_lent = self.failed = 0
        self.closed: Counter[str] = Counter()
        self.closing: set[asyncio.Task[None]] = set()
        self.outage = Outage(backoff)
        self._name = name
        self._connect_timeout_s = address.config_overrides.get("connect_timeout_s", connect_timeout_s)
        self._ageing = replace(
            ageing, check_idle_after_s=address.config_overrides.get("heartbeat_s", ageing.check_idle_after_s)
        )
        self._idle: deque[Wire] = deque()

    @property
    def idle(self) -> int:
        """Connections that nobody has."""
        return len(self._idle)

    @property
    def live(self) -> int:
        """Connections that are open or being opened."""
        return self.opening + self.opened - self.closed.total()

    def load(self, crowded: int) -> Load:
        """For the choice. `crowded`: if the pool is full, how many are open to the server with the most of them; else 0."""
        return Load(self.url, self.in_use, 0 < crowded <= self.live + 1 and not self._idle, self.last_lent)

    def figures(self, at: float) -> ServerFigures:
        """See ServerFigures."""
        passed_over = self.outage.is_on(at)
        return ServerFigures(self.in_use, self.idle, self.opened, dict(self.closed), self.failed, passed_over)

    # Taking and giving back

    async def take(self, make_room: Callable[[], None]) -> Wire:
        """An idle connection that is well, or a new one. Raises NotConnected or LoginRejected."""
        attempt = self.outage.trying(now(), random.random())
        try:
            wire = await self._take_idle() or await self._open(make_room)
        except NotConnected as error:
            self.failed += 1
            self.outage.failed(attempt, error, now(), random.random())
            raise
        self.outage.ended()
        return wire

    def put(self, wire: Wire) -> None:
        """Back to the idle ones, if it is young enough."""
        wire.idle_since = now()
        if why := self._ageing.retire(wire.opened_at, wire.idle_since, wire.idle_since):
            self.discard(wire, why)
        else:
            self._idle.append(wire)

    def discard(self, wire: Wire, why: str) -> None:
        """Close one that is not among the idle ones."""
        self.closed[why] += 1
        self.cut(wire)

    def cut(self, wire: Wire) -> None:
        """Close the socket under whoever has it; it is counted when it is given back."""
        task = asyncio.create_task(wire.close())
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    def retire(self, at: float) -> None:
        """Close the idle ones that are too old, or idle for too long."""
        for wire in [wire for wire in self._idle if self._ageing.retire(wire.opened_at, wire.idle_since, at)]:
            self._idle.remove(wire)
            self.discard(wire, self._ageing.retire(wire.opened_at, wire.idle_since, at))

    def evict(self, why: str) -> None:
        """Close the one that has been idle for longest."""
        self.discard(self._idle.popleft(), why)

    # One connection

    async def _take_idle(self) -> Wire | None:
        while self._idle:
            wire = self._idle.popleft()
            try:
                why = await self._what_is_wrong(wire)
            except NotConnected:
                self.discard(wire, "no sign of life")
                raise
            except BaseException:
                self.discard(wire, "given up in the middle of a check")
                raise
            if not why:
                return wire
            self.discard(wire, why)
        return None

    async def _what_is_wrong(self, wire: Wire) -> str:
        """Why an idle connection is not to be handed out, "" if it is well. Raises NotConnected: the server is silent."""
        at = now()
        if why := self._ageing.retire(wire.opened_at, wire.idle_since, at):
            return why
        if why := await wire.find_fault():
            return why
        if not self.outage.failures and not self._ageing.needs_check(wire.idle_since, at):
            return ""
        try:
            await wire.exchange([("PING",)], self._connect_timeout_s)
        except CommandTimeout as error:  # its other connections would be as silent: do not try them one by one
            raise NotConnected(f"{self.url} gives no sign of life") from error
        except MpimError:
            return "ended by the server"
        return ""

    async def _open(self, make_room: Callable[[], None]) -> Wire:
        make_room()
        self.opening += 1
        try:
            wire = Wire(self.address, self._name)
            await wire.open(self._connect_timeout_s)
            self.opened += 1
        finally:
            self.opening -= 1
        wire.opened_at = now()
        return wire


class Servers:
    """One shelf of connections for each server. Callers have a place already: at most `max_connections` come at a time."""

    def __init__(
        self,
        urls: str | Sequence[str],
        max_connections: int,
        name: str,
        ageing: Ageing,
        backoff: Backoff,
        connect_timeout_s: float,
    ) -> None:
        addresses = [Address.parse(url) for url in ([urls] if isinstance(urls, str) else urls)]
        self.shelves = {
            str(address): ServerShelf(address, name, ageing, backoff, connect_timeout_s) for address in addresses
        }
        if not addresses or len(self.shelves) < len(addresses):
            raise InvalidParameter(f"{len(addresses)} urls: at least one, and each once")
        self._max_connections = max_connections
        self._times_lent = 0

    @property
    def _is_full(self) -> bool:
        """As many are open, or being opened, as may be."""
        return sum(shelf.live for shelf in self.shelves.values()) >= self._max_connections

    def known(self, server: str) -> str:
        """The name under which a server is known here. Raises InvalidParameter."""
        name = server if server in self.shelves else str(Address.parse(server))
        if name not in self.shelves:
            raise InvalidParameter(f"server={server!r}: must be one of {', '.join(self.shelves)}")
        return name

    async def take(self, ticket: Ticket, wanted: str | None) -> Wire:
        """A connection to the least busy server that is there; each is tried once. Raises NotConnected, LoginRejected."""
        candidates = [wanted] if wanted is not None else list(self.shelves)
        while True:
            at = now()
            crowded = max(shelf.live for shelf in self.shelves.values()) if self._is_full else 0
            here = (self.shelves[url] for url in candidates if not self.shelves[url].outage.is_on(at))
            chosen = least_busy(shelf.load(crowded) for shelf in here)
            if chosen is None:
                raise self._why_none([wanted] if wanted is not None else list(self.shelves))
            try:
                return await self._take_from(self.shelves[chosen], ticket)
            except NotConnected:
                candidates.remove(chosen)

    async def _take_from(self, shelf: ServerShelf, ticket: Ticket) -> Wire:
        self._times_lent += 1
        shelf.last_lent, ticket.server = self._times_lent, shelf.url
        shelf.in_use += 1
        try:
            return await shelf.take(self._make_room)
        except BaseException:
            shelf.in_use -= 1
            ticket.server = ""
            raise

    def put(self, wire: Wire, why_not: str) -> None:
        """Take one back; `why_not`: close it instead."""
        shelf = self.shelves[str(wire.address)]
        shelf.in_use -= 1
        if why_not:
            shelf.discard(wire, why_not)
        else:
            shelf.put(wire)

    def _make_room(self) -> None:
        """Before one is opened, if there are as many as may be: close an idle one, where most are open, the oldest there.

        There is an idle one then: whoever asks has a place and no connection yet.
        """
        while self._is_full:
            with_idle = (shelf for shelf in self.shelves.values() if shelf.idle)
            max(with_idle, key=lambda shelf: shelf.live).evict("room for another server")

    def _why_none(self, tried: Sequence[str]) -> NotConnected:
        shelves = [self.shelves[url] for url in tried]
        causes = [shelf.outage.cause for shelf in shelves]
        text = "; ".join(
            f"{shelf.outage.cause} (tried again in {max(0.0, shelf.outage.until - now()):.2f} s)" for shelf in shelves
        )
        refused = any(isinstance(cause, LoginRejected) for cause in causes)
        error = LoginRejected(text) if refused else NotConnected(text)
        error.__cause__ = causes[0]
        return error

    def retire(self, at: float) -> None:
        """Close what is too old, or has been idle for too long."""
        for shelf in self.shelves.values():
            shelf.retire(at)

    def close(self, lent: Sequence[Wire]) -> None:
        """Close the idle ones, and cut those that are lent: their users get ConnectionLost."""
        for wire in lent:
            self.shelves[str(wire.address)].cut(wire)
        for shelf in self.shelves.values():
            while shelf.idle:
                shelf.evict("pool closed")

    async def all_closed(self) -> None:
        """Wait until the sockets are closed; whoever is cancelled here does not stop that."""
        if closing := [task for shelf in self.shelves.values() for task in shelf.closing]:
            await asyncio.wait(closing)

    def figures(self, at: float) -> dict[str, ServerFigures]:
        """One server after the other."""
        return {url: shelf.figures(at) for url, shelf in self.shelves.items()}
