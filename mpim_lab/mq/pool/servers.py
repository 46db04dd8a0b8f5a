"""Servers: which server a connection comes from, so that no more than so many are open to all of them together."""

import asyncio
from collections.abc import Sequence

from mpim_lab.errors import InvalidParameter, LoginRejected, NotConnected
from mpim_lab.events import now
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.connection.backoff import Backoff
from mpim_lab.mq.pool.policies import Ageing, least_busy
from mpim_lab.mq.pool.raw_connection import Wire
from mpim_lab.mq.pool.server import ServerShelf
from mpim_lab.mq.pool.stats import ServerFigures
from mpim_lab.mq.pool.wait_queue import Ticket


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
