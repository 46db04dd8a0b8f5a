"""Gates: the learner's routes at several gateways, each with a connection of its own; one of them can be held mid-way.

A script is a list of steps. What two gateways do at the same time is not left to luck: one is held before one of its
commands, the other one does all that it has to do, then the first goes on. So each race happens in every run.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self

from mpim_lab.chapters.ch08_im.redis_commands import as_text, in_short, story_in_short, with_keys, words_of
from mpim_lab.events import now
from mpim_lab.lab.exercise.challenge import Failure, Trial
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.pubsub.queue import MessageQueue

LIFETIME_S = 0.6
MARGIN_S = 0.15  # after a lifetime: then a route must be gone
STUCK_AFTER_S = 3.0
MOST_PARTS = 8  # commands of one method after each of which it is parted
_ATTEMPTS = 5
_USERS = ("bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "ken")


class Complaint(Exception):
    """A step did not end as it must."""


class TooSlow(Exception):
    """The machine was so slow that a route may have ended rightly: nothing can be said of this run."""


class Gate:
    """One gateway: a connection, the learner's routes on it, and the step of a method at which it is held."""

    def __init__(self, name: str, queue: MessageQueue, solution: type[Any], log: list[str]) -> None:
        self.name, self._queue, self._log = name, queue, log
        self._commands = queue.context("routes").connection
        self._left: int | None = None  # so many commands until it is held; None: it is not
        self.is_held, self._go_on = asyncio.Event(), asyncio.Event()
        self.routes = solution(self.call, LIFETIME_S)

    async def call(self, *command: Any) -> Any:
        """What the learner's class runs a command with: text, numbers, lists or None come back. Raises MpimError."""
        words = words_of(command)
        if self._left == 0:
            self._log.append(f"  {self.name} is held up before its next command, {in_short(words)}")
            self._left = None
            self.is_held.set()
            await self._go_on.wait()
        elif self._left is not None:
            self._left -= 1
        self._log.append(f"  {self.name}: {in_short(words)}")
        return as_text(await self._commands.call(*with_keys(words, self._queue.keys)))

    def hold_after(self, commands: int) -> None:
        """Hold it before the command after so many."""
        self._left = commands
        self.is_held.clear()
        self._go_on.clear()

    def let_go(self) -> None:
        """It goes on, and is not held any more."""
        self._left = None
        self._go_on.set()


class Gates:
    """Three gateways; `who` is the user that the steps are about. Use as a context."""

    def __init__(self, server: EmbeddedServer | ExternalServer, solution: type[Any]) -> None:
        self.log: list[str] = []
        self.who = _USERS[0]
        self._server, self._solution = server, solution
        self._gates: dict[str, Gate] = {}
        self._stack = contextlib.AsyncExitStack()
        self._counts_since: dict[str, float] = {}  # user → when the last bind or renew began
        self._doubtful: set[str] = set()  # users whose route may have ended between two renewals

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as self._stack:
            for name in ("gw-1", "gw-2", "gw-3"):
                await self._start(name)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    # Steps

    async def bind(self, gateway: str, connection: str) -> None:
        """The user connects."""
        self._doubtful.discard(self.who)
        await self._do("bind", gateway, connection)

    async def unbind(self, gateway: str, connection: str) -> None:
        """A connection ended, now or some time ago."""
        await self._do("unbind", gateway, connection)

    async def renew(self, gateway: str, connection: str) -> None:
        """A gateway's heartbeat."""
        await self._do("renew", gateway, connection)

    async def must_be_at(self, gateway: str, why: str) -> None:
        """Asked at gw-3, she is at that gateway. Raises Complaint, TooSlow."""
        found = await self._where()
        if found == gateway:
            return
        if found is None and (self._took_too_long() or self.who in self._doubtful):
            raise TooSlow
        raise Complaint(f"{self.who} is connected to {gateway}, and where() gives {found!r}: {why}")

    async def must_be_gone(self, why: str) -> None:
        """Asked at gw-3, she is nowhere. Raises Complaint."""
        found = await self._where()
        if found is not None:
            raise Complaint(f"{self.who} is a ghost: where() gives {found!r}, and {why}")

    async def wait(self, lifetimes: float) -> None:
        """Time passes: a share of a lifetime, or a little more than a whole one."""
        self.log.append(f"{lifetimes:g} of a lifetime passes" if lifetimes != 1 else "a lifetime passes")
        await asyncio.sleep(lifetimes * LIFETIME_S + (MARGIN_S if lifetimes == 1 else 0))

    def next_user(self, *, keep_log: bool = False) -> None:
        """The next steps are about somebody else; what was before is no part of the story."""
        self.who = _USERS[(_USERS.index(self.who) + 1) % len(_USERS)]
        if not keep_log:
            self.log.clear()

    def about(self, user: str) -> None:
        """The next steps are about this user."""
        self.who = user

    async def part(self, first: tuple[str, str, str], after: int, second: tuple[str, str, str]) -> bool:
        """Hold a method (name, gateway, connection) after so many commands, do another one, and let the first go on.

        Gives False if it was done before: then there is nothing to part.
        """
        gate, doing = await self._hold(first, after)
        try:
            if was_parted := not doing.done():
                await self._do(*second, waits_for=f"{first[1]} is held up in the middle of its {first[0]}")
                self.log.append(f"{first[1]} goes on")
            gate.let_go()
            await self._in_time(doing, f"{first[0]} at {first[1]}")
            return was_parted
        finally:
            await _end(doing)

    async def die(self, method: str, gateway: str, connection: str, after: int) -> bool:
        """Have a gateway die in the middle of a method, after so many commands; False if the method was done before.

        Another one is started in its place, with a connection and an object of its own.
        """
        gate, doing = await self._hold((method, gateway, connection), after)
        if doing.done():
            gate.let_go()
            await doing
            return False
        self.log.append(f"{gateway} dies")
        await _end(doing)
        await self._start(gateway)
        return True

    # Inside

    async def _start(self, name: str) -> None:
        queue = MessageQueue(self._server.url, name=name, prefix=self._server.prefix)
        await self._stack.enter_async_context(queue)
        self._gates[name] = Gate(name, queue, self._solution, self.log)

    async def _hold(self, what: tuple[str, str, str], after: int) -> tuple[Gate, "asyncio.Task[None]"]:
        gate = self._gates[what[1]]
        gate.hold_after(after)
        doing = asyncio.create_task(self._do(*what, within_s=4 * STUCK_AFTER_S))  # longer than who meets it may take
        held = asyncio.create_task(gate.is_held.wait())
        done, _ = await asyncio.wait([doing, held], timeout=STUCK_AFTER_S, return_when=asyncio.FIRST_COMPLETED)
        await _end(held)
        if not done:
            await _end(doing)
            raise Complaint(f"{what[0]} at {what[1]} did not return within {STUCK_AFTER_S:g} s")
        return gate, doing

    async def _do(
        self, method: str, gateway: str, connection: str, *, waits_for: str = "", within_s: float = STUCK_AFTER_S
    ) -> None:
        began = now()
        self.log.append(f'{gateway}: {method}("{self.who}", "{gateway}", "{connection}")')
        call = getattr(self._gates[gateway].routes, method)(self.who, gateway, connection)
        await self._in_time(call, f"{method} at {gateway}", waits_for, within_s)
        if method == "renew" and self._took_too_long():
            self._doubtful.add(self.who)
        if method != "unbind":
            self._counts_since[self.who] = began

    async def _in_time(
        self, call: Awaitable[Any], what: str, waits_for: str = "", within_s: float = STUCK_AFTER_S
    ) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await call
        except TimeoutError:
            why = f", while {waits_for}: that gateway may be dead" if waits_for else ""
            raise Complaint(f"{what} did not return within {within_s:g} s{why}") from None

    async def _where(self) -> Any:
        self.log.append(f'gw-3: where("{self.who}")')
        found = await self._in_time(self._gates["gw-3"].routes.where(self.who), "where at gw-3")
        self.log.append(f"  it gives {found!r}")
        return found

    def _took_too_long(self) -> bool:
        return now() - self._counts_since.get(self.who, 0.0) > 0.9 * LIFETIME_S


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # told already


def gates_trial(title: str, script: Callable[[Gates], Awaitable[None]]) -> Trial:
    """A script as a trial; once more, up to five times, if the machine was too slow to say anything."""

    async def judge(solution: type[Any]) -> Failure | None:
        for _ in range(_ATTEMPTS):
            async with open_server() as server, Gates(server, solution) as gates:
                try:
                    await script(gates)
                except TooSlow:
                    continue
                except Complaint as complaint:
                    return Failure(str(complaint), title, gates.who, story_in_short(gates.log))
                except Exception as error:  # the learner's code may raise anything
                    text = f"your class raised {type(error).__name__}: {error}"
                    return Failure(text, title, gates.who, story_in_short(gates.log))
                return None
        return Failure("this machine is too busy now to say anything: check again", title)

    return judge
