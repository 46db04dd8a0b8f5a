"""RouteRun: gateways that bind, unbind and renew routes of a user, and ask where she is."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar

from mpim_lab.chapters.ch08_im.route_history import Operation, first_contradiction
from mpim_lab.errors import CommandTimeout, ConnectionLost, NotConnected
from mpim_lab.events import EventKind, now
from mpim_lab.lab.exercise.actors import Actor
from mpim_lab.lab.exercise.schedule_run import Played, ScheduleRun, method_of
from mpim_lab.lab.exercise.schedules import (
    AFTER,
    BEFORE,
    DIES,
    IS_HELD,
    LOSES_CONNECTION,
    SERVER_STOPS,
    Action,
)
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.mq.pubsub.queue import MessageQueue

LIFETIME_S = 0.3
LONG_S, SHORT_S = 1.4 * LIFETIME_S, 0.3 * LIFETIME_S
MAX_ATTEMPTS = 40
PLAYERS = ("gw-1", "gw-2", "gw-3")
# Actors, and what their gateways are called.
GATEWAYS = {"gw-1": "gw", "gw-2": "gw 1", "gw-3": "10.0.0.7", "gw-4": "10.0.0.7:8080"}
BROKEN = {"found": 1, "gone": 2, "owned": 3, "timed": 4}
RETURNS = 5
_OUTAGES = (ConnectionLost, NotConnected, CommandTimeout)
_databases = [*range(1, 64)]  # one for each run: whatever keys a class uses, they are its own


def _decoded(reply: Any) -> Any:
    """Return a reply with its bytes read as text, inside of lists and maps as well."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if isinstance(reply, list):
        return [_decoded(each) for each in reply]
    if isinstance(reply, dict):
        return {_decoded(name): _decoded(each) for name, each in reply.items()}
    return reply


def _call_of(queue: MessageQueue) -> Callable[..., Awaitable[Any]]:
    async def call(*command: Any) -> Any:
        words = [str(word) if isinstance(word, int | float) else word for word in command]
        return _decoded(await queue.context("routes").connection.call(*words))

    return call


class RouteRun(ScheduleRun):
    """Three gateways, and a fourth one, which nothing happens to: the user may move there."""

    workloads = (
        "bob connects and leaves",
        "bob is silent",
        "a heartbeat",
        "bob moves",
        "bob comes back to the same gateway",
        "the old gateway renews on",
        "names",
        "two users",
        "at the same time",
    )
    actions = (
        replace(DIES, actors=PLAYERS, weight=1.5),
        replace(IS_HELD, actors=PLAYERS, weight=0.7),
        replace(LOSES_CONNECTION, actors=PLAYERS, moments=(BEFORE,), weight=2.2),
        replace(LOSES_CONNECTION, actors=PLAYERS, moments=(AFTER,), weight=0.7),
        replace(SERVER_STOPS, actors=PLAYERS, weight=0.4),
        Action("bob connects elsewhere", weight=2.2, actors=PLAYERS),
        Action("bob comes and goes elsewhere", weight=1.2, actors=PLAYERS),
        Action("the old connection ends", weight=0.7, actors=PLAYERS),
        Action("the old connection is renewed", weight=0.7, actors=PLAYERS),
        Action("a lifetime passes", weight=1.2, actors=PLAYERS),
    )
    users: ClassVar[tuple[str, ...]] = ("bob", "bob:c é", "Zoë 1")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.operations: list[Operation] = []
        self._gateways: dict[str, tuple[Actor, Any]] = {}
        self._beside: list[asyncio.Task[None]] = []
        self._moves = 0

    async def run(self) -> Played:
        """As every run, in a database of its own."""
        while not _databases:
            await asyncio.sleep(0.01)
        self._database = _databases.pop()
        try:
            return await super().run()
        finally:
            _databases.append(self._database)

    async def play(self) -> None:
        """Do what the workload says; then nobody does anything for longer than a lifetime."""
        lab = await self.queue(self._url(self.server.partition("?")[0]), "lab")
        await lab.context("routes").connection.call("FLUSHDB")
        for name in GATEWAYS:
            actor = await self.actor(name)
            queue = await self.queue(self._url(actor.url), name)
            self._gateways[name] = (actor, self._made(_call_of(queue)))
        await getattr(self, f"_{method_of(self.workload)}")()
        for task in self._beside:
            await task
        await self._where_everybody()
        await asyncio.sleep(LONG_S)
        await self._where_everybody()

    async def judge(self) -> None:
        """Nothing is left: each answer of `where` was looked at when it came."""

    def _look_at_answers(self, uid: str) -> None:
        """Raise Violation for an answer of `where` that nothing explains."""
        operations = [each for each in self.operations if each.uid == uid]
        if found := first_contradiction(operations, LIFETIME_S):
            possible = " or ".join(map(repr, found.possible)) or "nothing"
            text = f"where({uid!r}) gave {found.where.result!r}, and it must be {possible}"
            raise Violation(text, BROKEN[found.rule], uid)

    # Workloads

    async def _bob_connects_and_leaves(self) -> None:
        await self._where()
        await self._do("bind", "gw-1", "c1")
        await self._where()
        await self._do("unbind", "gw-1", "c1")
        await self._where()
        await self._do("renew", "gw-1", "c1")
        await self._where()
        await self._do("bind", "gw-1", "c2")
        await self._where()

    async def _bob_is_silent(self) -> None:
        await self._do("bind", "gw-1", "c1")
        await asyncio.sleep(0.7 * LIFETIME_S)
        await self._where()
        await asyncio.sleep(0.6 * LIFETIME_S)
        await self._where()
        await self._do("renew", "gw-1", "c1")
        await self._where()

    async def _a_heartbeat(self) -> None:
        await self._do("bind", "gw-1", "c1")
        for _ in range(5):
            await asyncio.sleep(SHORT_S)
            await self._do("renew", "gw-1", "c1")
        await asyncio.sleep(0.6 * LIFETIME_S)
        await self._where()

    async def _bob_moves(self) -> None:
        await self._do("bind", "gw-4", "c0")
        await self._do("bind", "gw-1", "c1")
        await self._where()
        await self._do("bind", "gw-2", "c2")
        await self._do("renew", "gw-1", "c1")
        await self._where()
        await self._do("unbind", "gw-1", "c1")
        await self._where()
        await self._do("renew", "gw-2", "c2")
        await self._do("unbind", "gw-2", "c2")
        await self._where()

    async def _bob_comes_back_to_the_same_gateway(self) -> None:
        await self._do("bind", "gw-1", "c1")
        await self._do("bind", "gw-1", "c2")
        await self._do("renew", "gw-1", "c1")
        await self._do("unbind", "gw-1", "c1")
        await self._where()
        await self._do("renew", "gw-1", "c2")
        await self._do("unbind", "gw-1", "c2")
        await self._where()

    async def _the_old_gateway_renews_on(self) -> None:
        await self._do("bind", "gw-1", "c1")
        await self._do("bind", "gw-2", "c2")
        for _ in range(5):
            await asyncio.sleep(SHORT_S)
            await self._do("renew", "gw-1", "c1")
        await self._where()

    async def _names(self) -> None:
        await self._do("bind", "gw-1", "1 c1")
        await self._do("bind", "gw-2", "c1")
        await self._do("renew", "gw-1", "1 c1")
        await self._do("unbind", "gw-1", "1 c1")
        await self._where()
        await self._do("bind", "gw-3", "8080:ç")
        await self._where("gw-1")
        await self._do("bind", "gw-4", "ç")
        await self._do("unbind", "gw-3", "8080:ç")
        await self._where("gw-1")

    async def _two_users(self) -> None:
        first, second, third = self.users
        await asyncio.gather(
            self._do("bind", "gw-1", "c1", first),
            self._do("bind", "gw-1", "c2 é", second),
            self._do("bind", "gw-2", "c3", third),
        )
        await self._where_everybody("gw-3")
        await asyncio.gather(
            self._do("unbind", "gw-1", "c1", first),
            self._do("renew", "gw-1", "c2 é", second),
            self._do("where", "gw-1", "", third),
            self._do("unbind", "gw-2", "c3", third),
        )
        await self._where_everybody("gw-3")

    async def _at_the_same_time(self) -> None:
        await self._do("bind", "gw-1", "c1")
        await asyncio.gather(self._do("unbind", "gw-1", "c1"), self._do("bind", "gw-2", "c2"))
        await self._where()
        await asyncio.gather(self._do("renew", "gw-2", "c2"), self._do("unbind", "gw-2", "c2"))
        await self._where()
        await asyncio.gather(self._do("bind", "gw-1", "c3"), self._do("bind", "gw-2", "c4"))
        await self._where()

    # What happens at a step

    async def bob_connects_elsewhere(self, actor: Actor) -> None:
        """He is at the fourth gateway now."""
        self._moves += 1
        await self._aside(self._do("bind", "gw-4", f"m{self._moves}"))

    async def bob_comes_and_goes_elsewhere(self, actor: Actor) -> None:
        """He was at the fourth gateway for a moment."""

        async def come_and_go(connection: str) -> None:
            await self._do("bind", "gw-4", connection)
            await self._do("unbind", "gw-4", connection)

        self._moves += 1
        await self._aside(come_and_go(f"m{self._moves}"))

    async def the_old_connection_ends(self, actor: Actor) -> None:
        """The fourth gateway notices that his first connection has ended."""
        await self._aside(self._do("unbind", "gw-4", "c0"))

    async def the_old_connection_is_renewed(self, actor: Actor) -> None:
        """The fourth gateway has not noticed it."""
        await self._aside(self._do("renew", "gw-4", "c0"))

    async def a_lifetime_passes(self, actor: Actor) -> None:
        """What is not renewed is over."""
        await asyncio.sleep(LONG_S)

    async def _aside(self, work: Any) -> None:
        """Do it while an actor is held: it may be that who is held keeps others waiting."""
        task = self._gateways["gw-4"][0].spawn(work)
        self._beside.append(task)
        await self.until(task.done, 2 * self.hold_s)

    # Inside

    def _url(self, address: str) -> str:
        return f"{address}?db={self._database}"

    def _made(self, call: Callable[..., Awaitable[Any]]) -> Any:
        try:
            return self.solution.load()(call, LIFETIME_S)
        except Exception as error:
            text = f"`__init__` raised {type(error).__name__}: {error}"
            raise Violation(text, error=error) from error

    async def _where(self, gateway: str = "gw-3", uid: str = "") -> None:
        is_dead = self._gateways[gateway][0].is_dead
        await self._do("where", "gw-4" if is_dead else gateway, "", uid)

    async def _where_everybody(self, gateway: str = "gw-4") -> None:
        for uid in self.users:
            await self._where(gateway, uid)

    async def _do(self, method: str, name: str, connection: str, uid: str = "") -> None:
        """Call a method until it returns, or its gateway is dead."""
        actor, own = self._gateways[name]
        for _ in range(MAX_ATTEMPTS):
            if actor.is_dead:
                return
            done = Operation(method, GATEWAYS[name], uid or self.users[0], connection)
            self.operations.append(done)
            call = actor.spawn(self._call(own, done))
            if not await self.until(lambda c=call: c.done() or actor.is_dead):  # type: ignore[misc]
                text = f"{name}: `{method}` has not returned after {self.limit_s:g} s"
                raise Violation(text, RETURNS, done.uid)
            if call.done():
                await call
            done.ended = min(done.ended, now())
            self.report(EventKind.OUTCOME, name, done.uid, outcome=str(done))
            if done.has_returned:
                self._look_at_answers(done.uid)
                return
            await asyncio.sleep(0.01)
        raise Violation(f"{name}: `{method}` failed {MAX_ATTEMPTS} times", RETURNS, done.uid)

    async def _call(self, own: Any, done: Operation) -> None:
        words = [done.uid]
        if done.method != "where":
            words += [done.gateway, done.connection]
        try:
            done.result = await finished(done.method, getattr(own, done.method)(*words))
        except Violation:
            raise
        except Exception as error:
            if self.schedule.disturbances and isinstance(error, _OUTAGES):
                return
            text = f"`{done.method}` raised {type(error).__name__}: {error}"
            raise Violation(text, 0, done.uid, error) from error
        done.has_returned, done.ended = True, now()
