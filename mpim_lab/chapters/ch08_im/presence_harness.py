"""PresenceHarness: the learner's routes at several gateways, each with a connection of its own.

One can be paused.

A script is a list of steps. What two gateways do at the same time is not left to luck: one is held
before one of its commands, the other one does all that it has to do, then the first goes on. So
each race happens in every run.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self

from mpim_lab.chapters.ch08_im.redis_commands import (
    abbreviate_story,
    command_words,
    decode_reply,
    prefix_keys,
    summarize,
)
from mpim_lab.events import now
from mpim_lab.lab.exercise.legacy_challenge import Trial, TrialFailure
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.pubsub.queue import MessageQueue

LIFETIME_S = 0.6
MARGIN_S = 0.15  # after a lifetime: then a route must be gone
STUCK_AFTER_S = 3.0
MAX_INTERLEAVINGS = 8  # commands of one method after each of which it is parted
_ATTEMPTS = 5
_USERS = ("bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "ken")


class Violation(Exception):
    """A step that did not end as it must."""


class Inconclusive(Exception):
    """A run on so slow a machine that a route may have ended rightly: it proves nothing."""


class GatewayHarness:
    """A harness around one gateway.

    A connection, the learner's routes on it, and the command before which it is paused.
    """

    def __init__(self, name: str, queue: MessageQueue, solution: type[Any], log: list[str]) -> None:
        self.name, self._queue, self._log = name, queue, log
        self._commands = queue.context("routes").connection
        self._left: int | None = None  # so many commands until it is held; None: it is not
        self.is_paused, self._go_on = asyncio.Event(), asyncio.Event()
        self.routes = solution(self.call, LIFETIME_S)

    async def call(self, *command: Any) -> Any:
        """What the learner's class runs a command with: text, numbers, lists or None come back.

        Raises MpimError.
        """
        words = command_words(command)
        if self._left == 0:
            self._log.append(
                f"  {self.name} is held up before its next command, {summarize(words)}"
            )
            self._left = None
            self.is_paused.set()
            await self._go_on.wait()
        elif self._left is not None:
            self._left -= 1
        self._log.append(f"  {self.name}: {summarize(words)}")
        return decode_reply(await self._commands.call(*prefix_keys(words, self._queue.keys)))

    def pause_after(self, commands: int) -> None:
        """Pause the gateway after so many commands."""
        self._left = commands
        self.is_paused.clear()
        self._go_on.clear()

    def resume(self) -> None:
        """Resume the gateway."""
        self._left = None
        self._go_on.set()


class PresenceHarness:
    """A harness of three gateways; `who` is the user that the steps are about. Use as a context."""

    def __init__(self, server: EmbeddedServer | ExternalServer, solution: type[Any]) -> None:
        self.log: list[str] = []
        self.who = _USERS[0]
        self._server, self._solution = server, solution
        self._gateways: dict[str, GatewayHarness] = {}
        self._stack = contextlib.AsyncExitStack()
        self._counts_since: dict[str, float] = {}  # user → when the last bind or renew began
        self._uncertain: set[str] = set()  # users whose route may have ended between two renewals

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
        self._uncertain.discard(self.who)
        await self._do("bind", gateway, connection)

    async def unbind(self, gateway: str, connection: str) -> None:
        """A connection ended, now or some time ago."""
        await self._do("unbind", gateway, connection)

    async def renew(self, gateway: str, connection: str) -> None:
        """A gateway's heartbeat."""
        await self._do("renew", gateway, connection)

    async def expect_at(self, gateway: str, why: str) -> None:
        """Expect that gw-3 finds the user at that gateway.

        Raise Violation if not, Inconclusive on a slow machine.
        """
        found = await self._where()
        if found == gateway:
            return
        if found is None and (self._took_too_long() or self.who in self._uncertain):
            raise Inconclusive
        raise Violation(
            f"{self.who} is connected to {gateway}, and where() returned {found!r}: {why}"
        )

    async def expect_offline(self, why: str) -> None:
        """Expect that gw-3 finds the user nowhere. Raise Violation if not."""
        found = await self._where()
        if found is not None:
            raise Violation(f"{self.who} is a ghost: where() returned {found!r}, and {why}")

    async def wait(self, lifetimes: float) -> None:
        """Time passes: a share of a lifetime, or a little more than a whole one."""
        self.log.append(
            f"{lifetimes:g} of a lifetime passes" if lifetimes != 1 else "a lifetime passes"
        )
        await asyncio.sleep(lifetimes * LIFETIME_S + (MARGIN_S if lifetimes == 1 else 0))

    def switch_user(self, *, keep_log: bool = False) -> None:
        """Switch to the next user; what was before is no part of the story."""
        self.who = _USERS[(_USERS.index(self.who) + 1) % len(_USERS)]
        if not keep_log:
            self.log.clear()

    def use_user(self, user: str) -> None:
        """Go on with this user."""
        self.who = user

    async def interleave(
        self, first: tuple[str, str, str], after: int, second: tuple[str, str, str]
    ) -> bool:
        """Pause a method (name, gateway, connection) after so many commands, do another, resume it.

        Return False if it was done before: then there is nothing to interleave.
        """
        gateway_harness, doing = await self._pause(first, after)
        try:
            if is_interleaved := not doing.done():
                await self._do(
                    *second, waits_for=f"{first[1]} is held up in the middle of its {first[0]}"
                )
                self.log.append(f"{first[1]} goes on")
            gateway_harness.resume()
            await self._in_time(doing, f"{first[0]} at {first[1]}")
            return is_interleaved
        finally:
            await _end(doing)

    async def kill_during(self, method: str, gateway: str, connection: str, after: int) -> bool:
        """Have a gateway die in the middle of a method, after so many commands.

        False if the method was done before.

        Another one is started in its place, with a connection and an object of its own.
        """
        gateway_harness, doing = await self._pause((method, gateway, connection), after)
        if doing.done():
            gateway_harness.resume()
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
        self._gateways[name] = GatewayHarness(name, queue, self._solution, self.log)

    async def _pause(
        self, what: tuple[str, str, str], after: int
    ) -> tuple[GatewayHarness, "asyncio.Task[None]"]:
        gateway_harness = self._gateways[what[1]]
        gateway_harness.pause_after(after)
        # Longer than who meets it may take.
        doing = asyncio.create_task(self._do(*what, within_s=4 * STUCK_AFTER_S))
        held = asyncio.create_task(gateway_harness.is_paused.wait())
        done, _ = await asyncio.wait(
            [doing, held], timeout=STUCK_AFTER_S, return_when=asyncio.FIRST_COMPLETED
        )
        await _end(held)
        if not done:
            await _end(doing)
            raise Violation(f"{what[0]} at {what[1]} did not return within {STUCK_AFTER_S:g} s")
        return gateway_harness, doing

    async def _do(
        self,
        method: str,
        gateway: str,
        connection: str,
        *,
        waits_for: str = "",
        within_s: float = STUCK_AFTER_S,
    ) -> None:
        began = now()
        self.log.append(f'{gateway}: {method}("{self.who}", "{gateway}", "{connection}")')
        call = getattr(self._gateways[gateway].routes, method)(self.who, gateway, connection)
        await self._in_time(call, f"{method} at {gateway}", waits_for, within_s)
        if method == "renew" and self._took_too_long():
            self._uncertain.add(self.who)
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
            raise Violation(f"{what} did not return within {within_s:g} s{why}") from None

    async def _where(self) -> Any:
        self.log.append(f'gw-3: where("{self.who}")')
        found = await self._in_time(self._gateways["gw-3"].routes.where(self.who), "where at gw-3")
        self.log.append(f"  it returned {found!r}")
        return found

    def _took_too_long(self) -> bool:
        return now() - self._counts_since.get(self.who, 0.0) > 0.9 * LIFETIME_S


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # reported already


def presence_trial(title: str, script: Callable[[PresenceHarness], Awaitable[None]]) -> Trial:
    """A script as a trial.

    Once more, up to five times, if the machine was too slow to say anything.
    """

    async def judge(solution: type[Any]) -> TrialFailure | None:
        for _ in range(_ATTEMPTS):
            async with open_server() as server, PresenceHarness(server, solution) as harness:
                try:
                    await script(harness)
                except Inconclusive:
                    continue
                except Violation as complaint:
                    return TrialFailure(
                        str(complaint), title, harness.who, abbreviate_story(harness.log)
                    )
                except Exception as error:  # the learner's code may raise anything
                    text = f"your class raised {type(error).__name__}: {error}"
                    return TrialFailure(text, title, harness.who, abbreviate_story(harness.log))
                return None
        return TrialFailure("this machine is too busy now to say anything: check again", title)

    return judge


# The cases, easiest first


async def found(harness: PresenceHarness) -> None:
    """Who is bound is found, by every gateway; nobody else is."""
    await harness.expect_offline("she never connected")
    await harness.bind("gw-1", "c1")
    await harness.expect_at("gw-1", "it was bound just now")
    harness.switch_user(keep_log=True)
    await harness.bind("gw-2", "c2")
    await harness.expect_at("gw-2", "it was bound just now")
    harness.use_user("bob")
    await harness.expect_at("gw-1", "another user's route is no concern of his")


async def gone(harness: PresenceHarness) -> None:
    """An unbind deletes the route; a new bind makes another."""
    await harness.bind("gw-1", "c1")
    await harness.unbind("gw-1", "c1")
    await harness.expect_offline("its connection was unbound")
    await harness.bind("gw-1", "c2")
    await harness.expect_at("gw-1", "it was bound again")


async def moved(harness: PresenceHarness) -> None:
    """The old gateway's unbind comes after the new gateway's bind."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-2", "c2")
    await harness.expect_at("gw-2", "the last bind is where the user is")
    await harness.unbind("gw-1", "c1")
    await harness.expect_at("gw-2", "gw-1's late unbind was of c1, and deleted c2's route")
    await harness.unbind("gw-2", "c2")
    await harness.expect_offline("its connection was unbound")


async def same_gateway(harness: PresenceHarness) -> None:
    """The user comes back to the same gateway, which has not noticed that she had left."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-1", "c2")
    await harness.unbind("gw-1", "c1")
    await harness.expect_at("gw-1", "the late unbind was of c1, and deleted c2's route")
    await harness.unbind("gw-1", "c2")
    await harness.expect_offline("its connection was unbound")


async def late_renew(harness: PresenceHarness) -> None:
    """The old gateway has not noticed yet, and renews."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-2", "c2")
    await harness.renew("gw-1", "c1")
    await harness.expect_at("gw-2", "gw-1's late renew of c1 took the route back")
    await harness.unbind("gw-2", "c2")
    await harness.expect_offline("its connection was unbound")


async def dies(harness: PresenceHarness) -> None:
    """Nobody unbinds: the route ends by itself, and not before its time."""
    await harness.bind("gw-1", "c1")
    await harness.wait(0.75)
    await harness.expect_at("gw-1", "a quarter of its lifetime is left")
    await harness.wait(1)
    await harness.expect_offline("its gateway was silent for more than a lifetime")


async def renewed(harness: PresenceHarness) -> None:
    """A heartbeat keeps it, for as long as it comes."""
    await harness.bind("gw-1", "c1")
    for _ in range(6):
        await harness.wait(0.25)
        await harness.renew("gw-1", "c1")
    await harness.expect_at("gw-1", "its gateway renewed it in time")
    await harness.wait(1)
    await harness.expect_offline("its gateway was silent for more than a lifetime")


async def others_heartbeat(harness: PresenceHarness) -> None:
    """The new gateway dies; the old one, which has not noticed that the user moved, renews on."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-2", "c2")
    for _ in range(6):
        await harness.wait(0.25)
        await harness.renew("gw-1", "c1")
    await harness.expect_offline(
        "gw-2 was silent for more than a lifetime; what gw-1 renewed was c1, not c2"
    )


async def unbind_meets_bind(harness: PresenceHarness) -> None:
    """The user moves while a gateway is in the middle of its unbind, or of its bind."""
    ways = (
        (("unbind", "gw-1", "c1"), ("bind", "gw-2", "c2")),
        (("bind", "gw-2", "c2"), ("unbind", "gw-1", "c1")),
    )
    for first, second in ways:
        for after in range(1, MAX_INTERLEAVINGS + 1):
            await harness.bind("gw-1", "c1")
            is_interleaved = await harness.interleave(first, after, second)
            if is_interleaved:
                why = (
                    "gw-1's unbind of c1 and gw-2's bind met, "
                    f"and {first[1]} was not done in one step"
                )
                await harness.expect_at("gw-2", why)
            harness.switch_user()
            if not is_interleaved:
                break


async def renew_meets_bind(harness: PresenceHarness) -> None:
    """The user moves while the old gateway is in the middle of its renew."""
    for after in range(1, MAX_INTERLEAVINGS + 1):
        await harness.bind("gw-1", "c1")
        is_interleaved = await harness.interleave(
            ("renew", "gw-1", "c1"), after, ("bind", "gw-2", "c2")
        )
        if is_interleaved:
            why = "gw-1's renew of c1 and gw-2's bind met, and gw-1 was not done in one step"
            await harness.expect_at("gw-2", why)
        harness.switch_user()
        if not is_interleaved:
            return


async def dies_in_the_middle(harness: PresenceHarness) -> None:
    """A gateway dies between two commands of its bind, or of its renew."""
    for method in ("bind", "renew"):
        for after in range(1, MAX_INTERLEAVINGS + 1):
            if method == "renew":
                await harness.bind("gw-1", "c1")
            if not await harness.kill_during(method, "gw-1", "c1", after):
                harness.switch_user()
                break
            await harness.wait(1)
            await harness.expect_offline(
                f"gw-1 died in the middle of its {method}, more than a lifetime ago"
            )
            harness.switch_user()


CASES = (
    ("bob connects to gw-1, carol to gw-2", found),
    ("bob leaves, and comes back", gone),
    ("bob moves to gw-2, and gw-1's unbind comes late", moved),
    ("bob comes back to gw-1, and the unbind of his old connection comes late", same_gateway),
    ("bob moves to gw-2, and gw-1's renew comes late", late_renew),
    ("bob's gateway dies", dies),
    ("bob's route is renewed for more than a lifetime, then his gateway dies", renewed),
    ("bob moves to gw-2, which dies; gw-1 renews on", others_heartbeat),
    ("an unbind and a bind at the same time", unbind_meets_bind),
    ("a renew and a bind at the same time", renew_meets_bind),
    ("a gateway dies in the middle of what it does", dies_in_the_middle),
)
