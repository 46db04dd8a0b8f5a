"""PoolScenario of chapter 7: callers that need a connection each, and a service that answers late.

Each caller asks a service for something and waits for the reply in a list of its own (BLPOP): while
it waits, it has a connection for itself. The lab plays the service, so it decides who has a
connection for how long, and in turns: a caller comes and either waits in the queue or for its reply
before the next one comes. Nothing depends on the clock; who is stalled is known by state: nobody is
left who could give a connection back.

ReplyService: what answers chapter 7's callers, and what the lab sees and does at the server.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.chapters.ch07_pool.designs import PoolContext, PoolDesign
from mpim_lab.chapters.shared.scenario import QUICK, Scenario, Server
from mpim_lab.errors import InvalidParameter, MpimError, ServerFailed
from mpim_lab.events import Event, EventKind, now
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, wait_until
from mpim_lab.lab.faults.server_admin import rights_needed
from mpim_lab.mq.connection.address import sanitize_client_name
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.pubsub.queue import MessageQueue

REPLY_TIMEOUT_S = 60  # longer than any run: a reply ends the wait, not a time-out


class ReplyService:
    """The service that callers ask; it answers into a list for each.

    `pool_name`: the client name of its connections.
    """

    def __init__(self, queue: MessageQueue, pool_name: str) -> None:
        self._queue, self._pool_name = queue, pool_name

    def question(self, caller: str) -> tuple[str, bytes, int]:
        """The command by which a caller waits for its reply."""
        return "BLPOP", self._key(caller), REPLY_TIMEOUT_S

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
        clients = [
            dict(word.partition("=")[::2] for word in line.split()) for line in listed.splitlines()
        ]
        own = [
            client for client in clients if client["name"] == sanitize_client_name(self._pool_name)
        ]
        return [client["id"] for client in own if ("b" in client["flags"]) == blocked]

    def _key(self, caller: str) -> bytes:
        return self._queue.keys.idempotency_record(f"replies of {self._pool_name}", caller)

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
TIMEOUT_S = 10.0


class SimulatedBug(Exception):
    """The error that a caller raises by a bug of its own."""


@dataclass(eq=False)
class SimulatedCaller:
    """One simulated caller.

    `state`: waiting, holding (it has a connection and waits for its reply), ended.
    """

    number: int
    fault: str = ""
    state: str = "waiting"
    at: str = CALLERS  # which connection it has
    is_answered: bool = False
    has_asked: bool = False
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """m4 is what caller 4 wants done."""
        return f"m{self.number}"


class PoolScenario(Scenario):
    """The scenario of chapter 7: one caller after the other, and each wave of them is answered."""

    limits = ConnectionConfig(timeout_s=2.0, connect_timeout_s=2.0, backoff=QUICK)

    def __init__(
        self,
        server: Server,
        run: Run,
        design: PoolDesign,
        planned: Sequence[Fault],
        waves: Sequence[Sequence[int]],
        *,
        connections: int,
        wait_s: float,
    ) -> None:
        super().__init__(server, run, planned)
        self.design = design
        self._last_of_waves = {wave[-1] for wave in waves}
        name = f"{POOL}-{secrets.token_hex(3)}"
        self._context = PoolContext(server.url, connections, wait_s, name)
        self._lab: MessageQueue = self.queue("lab", observer=None)
        self.service = ReplyService(self._lab, name)
        self._wires: list[Any] = []
        self.callers: list[SimulatedCaller] = []
        self.usable = 0

    async def open(self) -> None:
        """Open the pool."""
        self.check_available("cut")  # whoever waits is seen in CLIENT LIST
        await self.parts.enter_async_context(self._lab)
        self._pool = await self.parts.enter_async_context(self.design.make(self._context))
        self.parts.push_async_callback(self._cancel_all)

    async def _cancel_all(self) -> None:
        tasks = [
            caller.task
            for caller in self.callers
            if caller.task is not None and not caller.task.done()
        ]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=TIMEOUT_S)

    # One caller after the other

    async def send(self, payload: int) -> None:
        """Have a caller come; answer everybody after the last one of a wave."""
        await self._add_caller(payload)
        if payload in self._last_of_waves:
            await self._answer_all()

    async def _add_caller(self, number: int) -> None:
        """Add a caller.

        When this returns it is in the wait queue, or waits for its reply, or has ended.
        """
        caller = SimulatedCaller(number)
        self.sent.append(caller.name)
        caller.fault = self.fault_of.get(caller.name, "")
        self.callers.append(caller)
        if caller.fault:
            self.record_began(caller.fault)
        if caller.fault == "idle rot":
            await self.service.cut_idle()
        self._report(EventKind.ACCEPTED, caller, CALLERS)
        caller.task = asyncio.create_task(self._call(caller), name=f"caller {number}")
        await self._wait_idle()
        if caller.state == "holding":
            await self._inject_at(caller)
        if caller.fault and caller.fault != "exhaustion":
            self.record_ended(caller.fault)

    async def _answer_all(self) -> None:
        """Answer, the oldest first, until no caller has a connection but the slow ones."""
        while holding := [
            one for one in self.callers if one.state == "holding" and one.fault != "exhaustion"
        ]:
            await self._answer(holding[0])
            await self._wait_idle()

    async def finish(self) -> None:
        """Answer whoever can be answered; the others are stalled.

        Release the slow ones and count the usable connections.
        """
        await self._answer_all()
        if self.design.gives_up:
            with contextlib.suppress(ServerFailed):
                await wait_until(
                    lambda: not self._in_state("waiting"), "an answer to those who wait", TIMEOUT_S
                )
        for caller in self._in_state("waiting"):
            self._report(EventKind.STALLED, caller, CALLERS)
            await self._cancel(caller)
        for caller in self._in_state("holding"):
            await self._answer(caller)
        for kind in sorted({caller.fault for caller in self.callers} & {"exhaustion"}):
            self.record_ended(kind)
        await self._wait_idle()
        self.usable = await self._count_usable()

    async def _call(self, caller: SimulatedCaller) -> None:
        """What a caller does: borrow, ask, wait for the reply, look whether it is its own."""
        try:
            async with self.design.borrow(self._pool) as connection:
                caller.at = self._name_of(connection)
                self._report(EventKind.RECEIVED, caller, caller.at)
                if caller.fault == "leak":
                    raise SimulatedBug("raised while it had a connection")
                caller.state, caller.has_asked = "holding", True
                self._judge(caller, await connection.call(*self.service.question(caller.name)))
        except asyncio.CancelledError:
            if caller.has_asked:
                self._report(
                    EventKind.FAILED,
                    caller,
                    caller.at,
                    "Cancelled",
                    "gave up in the middle of a reply",
                )
        except (MpimError, SimulatedBug) as error:
            # Our own errors name addresses and seconds.
            text = "" if isinstance(error, MpimError) else str(error)
            self._report(EventKind.FAILED, caller, caller.at, type(error).__name__, text)
        finally:
            caller.state = "ended"

    def _judge(self, caller: SimulatedCaller, reply: Any) -> None:
        """A reply to BLPOP is the list's name and what was in it.

        Whoever reads something else reads another's reply.
        """
        said = bytes(reply[1] if isinstance(reply, list) else reply).decode()
        if said == reply_to(caller.name):
            self._report(EventKind.HANDLED, caller, caller.at)
        else:
            self._report(EventKind.FAILED, caller, caller.at, "WrongReply", f"read the {said}")

    async def _answer(self, caller: SimulatedCaller) -> None:
        caller.is_answered = True
        await self.service.answer(caller.name)

    async def _wait_idle(self) -> None:
        """Wait until every caller is in the wait queue, waits for a reply, or has ended."""
        await wait_until(self._is_idle, "the next step of every caller", timeout_s=2 * TIMEOUT_S)

    async def _is_idle(self) -> bool:
        for caller in self._in_state("ended"):
            if caller.task is not None and caller.task.done() and not caller.task.cancelled():
                caller.task.result()  # a learner's own class may raise anything
            if caller.has_asked and not caller.is_answered:
                # The service does not know that nobody waits for it any more.
                await self._answer(caller)
        waiting, holding = len(self._in_state("waiting")), len(self._in_state("holding"))
        if self._pool.stats().waiting != waiting:
            return False
        answered = sum(caller.is_answered for caller in self._in_state("holding"))
        return not answered and len(await self.service.waiting()) == holding

    def _in_state(self, state: str) -> list[SimulatedCaller]:
        return [caller for caller in self.callers if caller.state == state]

    # What can go wrong

    async def _inject_at(self, caller: SimulatedCaller) -> None:
        if caller.fault == "cancelled":
            await self._cancel(caller)
        elif caller.fault == "broken connection":
            await self.service.cut_waiting()
        elif caller.fault == "server restart":
            self.server.kill()
            await wait_until(self._starts_again, "the server's return")
            await wait_until(lambda: self._lab.is_connected, "the return of the lab's connection")
        await self._wait_idle()

    async def _starts_again(self) -> bool:
        try:
            await self.server.start()
        except ServerFailed as error:
            if "Address already in use" not in str(error):
                raise
            return False  # somebody's connection was given the free port, for a moment
        return True

    async def _cancel(self, caller: SimulatedCaller) -> None:
        assert caller.task is not None
        caller.task.cancel()
        if caller.has_asked:
            await self._answer(caller)
        await asyncio.wait([caller.task], timeout=TIMEOUT_S)

    # What is seen

    async def _count_usable(self) -> int:
        """Take every connection that the pool has left and ask it something of its own."""
        usable = 0
        async with contextlib.AsyncExitStack() as borrowed:
            for number in range(self._context.connections - self._pool.stats().in_use):
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

    def _report(
        self, kind: EventKind, caller: SimulatedCaller, actor: str, error: str = "", text: str = ""
    ) -> None:
        detail = f"{error}: {text}" if text else error
        self.trace(Event(kind, now(), actor, caller.name, POOL, detail, error=error))
