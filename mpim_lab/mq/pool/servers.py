"""ServerSelector: which server a connection comes from, within one limit for all of them.

ServerPool: one server's connections: which are idle, how one is acquired, checked, opened, closed
and counted.
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
from mpim_lab.mq.pool.policies import CircuitBreaker, IdlePolicy, ServerLoad, least_loaded
from mpim_lab.mq.pool.pooled_connection import Ticket
from mpim_lab.mq.pool.raw_connection import RawConnection
from mpim_lab.mq.pool.stats import ServerStats


class ServerPool:
    """The connections to one server; idle ones are acquired first in, first out.

    Last in, first out, as in the naive pool, has one virtue: what is not needed stays idle and can
    be retired. But what lies at the bottom is not looked at, rots unseen, and is handed out all at
    once when the load rises: the worst moment. First in, first out uses each in turn, so that a
    broken one is found soon and no connection is idle for longer than it takes to go round. The
    price: under a light, steady load the pool does not shrink. It is bounded anyway, and under no
    load the pool's maintenance task expires what `max_idle_s` says.

    Opening and closing are awaited outside any lock: there is none. Each step that changes a count
    is done without awaiting.
    """

    def __init__(
        self,
        address: Address,
        name: str,
        idle_policy: IdlePolicy,
        backoff: Backoff,
        connect_timeout_s: float,
    ) -> None:
        self.address, self.url = address, str(address)
        self.in_use = self.opened = self.opening = self.last_acquired = self.failed = 0
        self.closed: Counter[str] = Counter()
        self.closing: set[asyncio.Task[None]] = set()
        self.breaker = CircuitBreaker(backoff)
        self._name = name
        self._connect_timeout_s = address.config_overrides.get(
            "connect_timeout_s", connect_timeout_s
        )
        self._idle_policy = replace(
            idle_policy,
            check_idle_after_s=address.config_overrides.get(
                "heartbeat_s", idle_policy.check_idle_after_s
            ),
        )
        self._idle: deque[RawConnection] = deque()

    @property
    def idle(self) -> int:
        """Connections that nobody has."""
        return len(self._idle)

    @property
    def live(self) -> int:
        """Connections that are open or being opened."""
        return self.opening + self.opened - self.closed.total()

    def load(self, crowded: int) -> ServerLoad:
        """For the choice.

        `crowded`: if the pool is full, how many are open to the server with the most of them; else
        0.
        """
        return ServerLoad(
            self.url,
            self.in_use,
            0 < crowded <= self.live + 1 and not self._idle,
            self.last_acquired,
        )

    def stats(self, at: float) -> ServerStats:
        """See ServerStats."""
        passed_over = self.breaker.is_open(at)
        return ServerStats(
            self.in_use, self.idle, self.opened, dict(self.closed), self.failed, passed_over
        )

    # Acquiring and releasing

    async def acquire(self, make_room: Callable[[], None]) -> RawConnection:
        """An idle connection that is well, or a new one. Raises NotConnected or LoginRejected."""
        attempt = self.breaker.on_attempt(now(), random.random())
        try:
            raw = await self._acquire_idle() or await self._open(make_room)
        except NotConnected as error:
            self.failed += 1
            self.breaker.record_failure(attempt, error, now(), random.random())
            raise
        self.breaker.record_success()
        return raw

    def release(self, raw: RawConnection) -> None:
        """Return it to the idle ones, if it is young enough."""
        raw.idle_since = now()
        if why := self._idle_policy.expiry_reason(raw.opened_at, raw.idle_since, raw.idle_since):
            self.discard(raw, why)
        else:
            self._idle.append(raw)

    def discard(self, raw: RawConnection, why: str) -> None:
        """Close one that is not among the idle ones."""
        self.closed[why] += 1
        self.abort(raw)

    def abort(self, raw: RawConnection) -> None:
        """Close the socket under whoever has it; it is counted when it is released."""
        task = asyncio.create_task(raw.close())
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    def expire_idle(self, at: float) -> None:
        """Close the idle ones that are too old, or idle for too long."""
        for raw in [
            raw
            for raw in self._idle
            if self._idle_policy.expiry_reason(raw.opened_at, raw.idle_since, at)
        ]:
            self._idle.remove(raw)
            self.discard(raw, self._idle_policy.expiry_reason(raw.opened_at, raw.idle_since, at))

    def evict_oldest(self, why: str) -> None:
        """Close the one that has been idle for longest."""
        self.discard(self._idle.popleft(), why)

    # One connection

    async def _acquire_idle(self) -> RawConnection | None:
        while self._idle:
            raw = self._idle.popleft()
            try:
                why = await self._health_problem(raw)
            except NotConnected:
                self.discard(raw, "no sign of life")
                raise
            except BaseException:
                self.discard(raw, "given up in the middle of a check")
                raise
            if not why:
                return raw
            self.discard(raw, why)
        return None

    async def _health_problem(self, raw: RawConnection) -> str:
        """Why an idle connection is not to be handed out, "" if it is well.

        Raises NotConnected: the server is silent.
        """
        at = now()
        if why := self._idle_policy.expiry_reason(raw.opened_at, raw.idle_since, at):
            return why
        if why := await raw.health_check():
            return why
        if not self.breaker.failures and not self._idle_policy.needs_health_check(
            raw.idle_since, at
        ):
            return ""
        try:
            await raw.execute([("PING",)], self._connect_timeout_s)
        except CommandTimeout as error:
            # its other connections would be as silent: do not try them one by one
            raise NotConnected(f"{self.url} gives no sign of life") from error
        except MpimError:
            return "ended by the server"
        return ""

    async def _open(self, make_room: Callable[[], None]) -> RawConnection:
        make_room()
        self.opening += 1
        try:
            raw = RawConnection(self.address, self._name)
            await raw.open(self._connect_timeout_s)
            self.opened += 1
        finally:
            self.opening -= 1
        raw.opened_at = now()
        return raw


class ServerSelector:
    """The choice of a server and one `ServerPool` for each.

    Callers have a slot: at most `max_connections` come at once.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        max_connections: int,
        name: str,
        idle_policy: IdlePolicy,
        backoff: Backoff,
        connect_timeout_s: float,
    ) -> None:
        addresses = [Address.parse(url) for url in ([urls] if isinstance(urls, str) else urls)]
        self.pools = {
            str(address): ServerPool(address, name, idle_policy, backoff, connect_timeout_s)
            for address in addresses
        }
        if not addresses or len(self.pools) < len(addresses):
            raise InvalidParameter(f"{len(addresses)} urls: at least one, and each once")
        self._max_connections = max_connections
        self._acquire_count = 0

    @property
    def _is_full(self) -> bool:
        """As many are open, or being opened, as may be."""
        return sum(pool.live for pool in self.pools.values()) >= self._max_connections

    def resolve(self, server: str) -> str:
        """The name under which a server is known here. Raises InvalidParameter."""
        name = server if server in self.pools else str(Address.parse(server))
        if name not in self.pools:
            raise InvalidParameter(f"server={server!r}: must be one of {', '.join(self.pools)}")
        return name

    async def acquire(self, ticket: Ticket, wanted: str | None) -> RawConnection:
        """A connection to the least busy server that is there; each is tried once.

        Raises NotConnected, LoginRejected.
        """
        candidates = [wanted] if wanted is not None else list(self.pools)
        while True:
            at = now()
            crowded = max(pool.live for pool in self.pools.values()) if self._is_full else 0
            here = (
                self.pools[url] for url in candidates if not self.pools[url].breaker.is_open(at)
            )
            chosen = least_loaded(pool.load(crowded) for pool in here)
            if chosen is None:
                raise self._no_server_error([wanted] if wanted is not None else list(self.pools))
            try:
                return await self._acquire_from(self.pools[chosen], ticket)
            except NotConnected:
                candidates.remove(chosen)

    async def _acquire_from(self, pool: ServerPool, ticket: Ticket) -> RawConnection:
        self._acquire_count += 1
        pool.last_acquired, ticket.server = self._acquire_count, pool.url
        pool.in_use += 1
        try:
            return await pool.acquire(self._make_room)
        except BaseException:
            pool.in_use -= 1
            ticket.server = ""
            raise

    def release(self, raw: RawConnection, dirty_reason: str) -> None:
        """Release one; close it instead if there is a `dirty_reason`."""
        pool = self.pools[str(raw.address)]
        pool.in_use -= 1
        if dirty_reason:
            pool.discard(raw, dirty_reason)
        else:
            pool.release(raw)

    def _make_room(self) -> None:
        """Before one is opened, if there are as many as may be.

        Close an idle one, where most are open, the oldest there.

        There is an idle one then: whoever asks has a place and no connection yet.
        """
        while self._is_full:
            with_idle = (pool for pool in self.pools.values() if pool.idle)
            max(with_idle, key=lambda pool: pool.live).evict_oldest("room for another server")

    def _no_server_error(self, tried: Sequence[str]) -> NotConnected:
        pools = [self.pools[url] for url in tried]
        causes = [pool.breaker.cause for pool in pools]
        text = "; ".join(
            f"{pool.breaker.cause} (tried again in "
            f"{max(0.0, pool.breaker.open_until - now()):.2f} s)"
            for pool in pools
        )
        refused = any(isinstance(cause, LoginRejected) for cause in causes)
        error = LoginRejected(text) if refused else NotConnected(text)
        error.__cause__ = causes[0]
        return error

    def expire_idle(self, at: float) -> None:
        """Close what is too old, or has been idle for too long."""
        for pool in self.pools.values():
            pool.expire_idle(at)

    def close(self, lent: Sequence[RawConnection]) -> None:
        """Close the idle ones, and cut those that are lent: their users get ConnectionLost."""
        for raw in lent:
            self.pools[str(raw.address)].abort(raw)
        for pool in self.pools.values():
            while pool.idle:
                pool.evict_oldest("pool closed")

    async def all_closed(self) -> None:
        """Wait until the sockets are closed; whoever is cancelled here does not stop that."""
        if closing := [task for pool in self.pools.values() for task in pool.closing]:
            await asyncio.wait(closing)

    def stats(self, at: float) -> dict[str, ServerStats]:
        """One server after the other."""
        return {url: pool.stats(at) for url, pool in self.pools.items()}
