"""The stage of chapter 7: callers who need a connection of their own, a pool, a server, and a service that answers late.

Each caller asks a service for something and waits for the reply in a list of its own (BLPOP): while it waits, it has a
connection for itself. The lab plays the service, so it decides who has a connection for how long, and in turns: a caller
comes and either waits in line or for its reply before the next one comes. Nothing depends on the clock; who is stuck
is known by state: nobody is left who could give a connection back.

Service: what answers chapter 7's callers, and what the lab sees and does at the server.
"""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from typing import Any, Self

from mpim_lab.chapters.ch07_pool.designs import PoolDesign, Setting
from mpim_lab.errors import InvalidParameter, MpimError, ServerFailed
from mpim_lab.events import Event, Kind, now
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import check_available, until
from mpim_lab.lab.faults.server_admin import rights_needed
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.address import sanitize_client_name
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue

REPLY_WITHIN_S = 60  # longer than any run: a reply ends the wait, not a time-out


class Service:
    """Answers into a list for each caller. `pool_name`: what the pool's connections are called at the server."""

    def __init__(self, queue: MessageQueue, pool_name: str) -> None:
        self._queue, self._pool_name = queue, pool_name

    def question(self, caller: str) -> tuple[str, bytes, int]:
        """The command by which a caller waits for its reply."""
        return "BLPOP", self._key(caller), REPLY_WITHIN_S

    async def answer(self, caller: str) -> None:
        """Reply to a caller, whether it still waits or not."""
        await self._command("RPUSH", self._key(caller), reply_to(caller))

    async def waiting(self) -> list[str]:
        """Which of the pool's connections wait for a reply, by the server's client ids."""
        return await self._clients(blocked=True)

    async def cut_waiting(self) -> None:
        """Cut the connections that wait for a reply (CLIENT KILL)."""
        await self._cut(await self._clients(blocked=True))

    async def cut_idle(self) -> None:
        """Cut the others, as a server's `timeout` does, or a firewall's."""
        await self._cut(await self._clients(blocked=False))

    async def _cut(self, ids: list[str]) -> None:
        for number in ids:
            await self._command("CLIENT", "KILL", "ID", number)

    async def _clients(self, *, blocked: bool) -> list[str]:
        listed = bytes(await self._command("CLIENT", "LIST")).decode()
        clients = [dict(word.partition("=")[::2] for word in line.split()) for line in listed.splitlines()]
        own = [client for client in clients if client["name"] == sanitize_client_name(self._pool_name)]
        return [client["id"] for client in own if ("b" in client["flags"]) == blocked]

    def _key(self, caller: str) -> bytes:
        return self._queue.keys.record(f"replies of {self._pool_name}", caller)

    async def _command(self, *words: str | bytes) -> Any:
        with rights_needed():
            return await self._queue.context(self._pool_name).connection.call(*words)


def reply_to(caller: str) -> str:
    """What the service replies to a caller.

    >>> reply_to("m3")
    'reply to m3'
    """
    return f"reply to {caller}"


CALLERS, POOL = "callers", "pool"
PATIENCE_S = 10.0
LIMITS = ConnectionConfig(timeout_s=2.0, connect_timeout_s=2.0, backoff=Backoff(initial_s=0.005, max_s=0.05))


class BugInCaller(Exception):
    """What a caller raises that has a bug of its own."""


@dataclass(eq=False)
class Caller:
    """One caller. `state`: asking, working (it has a connection and waits for its reply), ended."""

    number: int
    fault: str = ""
    state: str = "asking"
    at: str = CALLERS  # which connection it has
    is_answered: bool = False
    has_asked: bool = False
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """m4 is what caller 4 wants done."""
        return f"m{self.number}"


class PoolStage:
    """Everybody on it. Use as a context; `come`, `serve`, then `finish`."""

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        design: PoolDesign,
        struck: dict[int, str],
        setting: dict[str, Any],
    ) -> None:
        self.server, self.run, self.design = server, run, design
        self._struck = struck
        self._setting = Setting(server.url, name=f"{POOL}-{secrets.token_hex(3)}", **setting)
        self._lab = MessageQueue(server.unix_url or server.url, name="lab", prefix=server.prefix, config=LIMITS)
        self.service = Service(self._lab, self._setting.name)
        self._wires: list[Any] = []
        self.callers: list[Caller] = []
        self.usable = 0
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        check_available(self.server, "cut", *self._struck.values())  # whoever waits is seen in CLIENT LIST
        try:
            await self._open.enter_async_context(self._lab)
            self._pool = await self._open.enter_async_context(self.design.make(self._setting))
        except BaseException:
            await self._open.aclose()
            raise
        self._open.push_async_callback(self._dismiss)
        self.run.injector = self._inject
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        await self._open.aclose()

    async def _dismiss(self) -> None:
        tasks = [caller.task for caller in self.callers if caller.task is not None and not caller.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE_S)

    # One caller after the other

    async def come(self, number: int) -> None:
        """A caller comes: when this returns it is in line, or waits for its reply, or has ended."""
        caller = Caller(number, self._struck.get(number, ""))
        self.callers.append(caller)
        if caller.fault:
            self.run.trace.mark(Kind.FAULT_BEGAN, "lab", caller.fault)
        if caller.fault == "idle rot":
            await self.service.cut_idle()
        self._report(Kind.ACCEPTED, caller, CALLERS)
        caller.task = asyncio.create_task(self._call(caller), name=f"caller {number}")
        await self._settle()
        if caller.state == "working":
            await self._strike(caller)
        if caller.fault and caller.fault != "exhaustion":
            self.run.trace.mark(Kind.FAULT_ENDED, "lab", caller.fault)

    async def serve(self) -> None:
        """The service answers, the oldest first, until nobody has a connection but the slow ones."""
        while working := [one for one in self.callers if one.state == "working" and one.fault != "exhaustion"]:
            await self._answer(working[0])
            await self._settle()

    async def finish(self) -> None:
        """Serve whoever can be served; the others are stuck. Then let the slow ones go, and look what the pool is worth."""
        await self.serve()
        if self.design.gives_up:
            with contextlib.suppress(ServerFailed):
                await until(lambda: not self._in("asking"), "an answer to those who wait", PATIENCE_S)
        for caller in self._in("asking"):
            self._report(Kind.STUCK, caller, CALLERS)
            await self._cancel(caller)
        for caller in self._in("working"):
            await self._answer(caller)
        for kind in sorted({caller.fault for caller in self.callers} & {"exhaustion"}):
            self.run.trace.mark(Kind.FAULT_ENDED, "lab", kind)
        await self._settle()
        self.usable = await self._count_usable()

    async def _call(self, caller: Caller) -> None:
        """What a caller does: borrow, ask, wait for the reply, look whether it is its own."""
        try:
            async with self.design.borrow(self._pool) as connection:
                caller.at = self._name_of(connection)
                self._report(Kind.RECEIVED, caller, caller.at)
                if caller.fault == "leak":
                    raise BugInCaller("raised while it had a connection")
                caller.state, caller.has_asked = "working", True
                self._judge(caller, await connection.call(*self.service.question(caller.name)))
        except asyncio.CancelledError:
            if caller.has_asked:
                self._report(Kind.FAILED, caller, caller.at, "Cancelled: gave up in the middle of a reply")
        except (MpimError, BugInCaller) as error:
            said = "" if isinstance(error, MpimError) else f": {error}"  # ours name addresses and seconds
            self._report(Kind.FAILED, caller, caller.at, type(error).__name__ + said)
        finally:
            caller.state = "ended"

    def _judge(self, caller: Caller, reply: Any) -> None:
        """A reply to BLPOP is the list's name and what was in it; whoever reads something else reads another's reply."""
        said = bytes(reply[1] if isinstance(reply, list) else reply).decode()
        if said == reply_to(caller.name):
            self._report(Kind.HANDLED, caller, caller.at)
        else:
            self._report(Kind.FAILED, caller, caller.at, f"WrongReply: read the {said}")

    async def _answer(self, caller: Caller) -> None:
        caller.is_answered = True
        await self.service.answer(caller.name)

    async def _settle(self) -> None:
        """Wait until everybody is in line, or waits for a reply at the server, or has ended."""
        await until(self._is_settled, "the next step of every caller", within_s=2 * PATIENCE_S)

    async def _is_settled(self) -> bool:
        for caller in self._in("ended"):
            if caller.task is not None and caller.task.done() and not caller.task.cancelled():
                caller.task.result()  # a learner's own class may raise anything
            if caller.has_asked and not caller.is_answered:
                await self._answer(caller)  # the service does not know that nobody waits for it any more
        asking, working = len(self._in("asking")), len(self._in("working"))
        if self._pool.stats().waiting != asking:
            return False
        answered = sum(caller.is_answered for caller in self._in("working"))
        return not answered and len(await self.service.waiting()) == working

    def _in(self, state: str) -> list[Caller]:
        return [caller for caller in self.callers if caller.state == state]

    # What can go wrong

    async def _strike(self, caller: Caller) -> None:
        if caller.fault == "cancelled":
            await self._cancel(caller)
        elif caller.fault == "broken connection":
            await self.service.cut_waiting()
        elif caller.fault == "server restart":
            self.server.kill()
            await until(self._starts_again, "the server's return")
            await until(lambda: self._lab.is_connected, "the return of the lab's line")
        await self._settle()

    async def _starts_again(self) -> bool:
        try:
            await self.server.start()
        except ServerFailed as error:
            if "Address already in use" not in str(error):
                raise
            return False  # somebody's connection was given the free port, for a moment
        return True

    async def _cancel(self, caller: Caller) -> None:
        assert caller.task is not None
        caller.task.cancel()
        if caller.has_asked:
            await self._answer(caller)
        await asyncio.wait([caller.task], timeout=PATIENCE_S)

    async def _inject(self, fault: str) -> None:
        check_available(self.server, fault)
        self._struck[len(self.callers) + 1] = fault

    # What is seen

    async def _count_usable(self) -> int:
        """Take every connection that the pool has left and ask it something of its own."""
        usable = 0
        async with contextlib.AsyncExitStack() as borrowed:
            for number in range(self._setting.connections - self._pool.stats().in_use):
                with contextlib.suppress(MpimError):
                    connection = await borrowed.enter_async_context(self.design.borrow(self._pool))
                    token = f"probe {number}"
                    usable += await connection.call("ECHO", token) == token.encode()
        return usable

    def _name_of(self, connection: Any) -> str:
        wire = getattr(connection, "raw", None)
        if wire is None:
            raise InvalidParameter(f"{connection!r} is not one of the pool's connections")
        if wire not in self._wires:
            self._wires.append(wire)  # kept, so that no other one can be mistaken for it
        return f"connection {self._wires.index(wire) + 1}"

    def _report(self, kind: Kind, caller: Caller, actor: str, detail: str = "") -> None:
        self.run.trace(Event(kind, now(), actor, caller.name, POOL, detail))
