"""Faults: seeded, and placed by message: the same seed breaks the same messages every time.

A fault strikes just before one of the sender's attempts (after whatever it checked) and lasts for
some. `FaultInjector` counts them; `FaultyQueue` is the sender's queue with the faults in front of
`publish`. How a fault is caused is a pair of functions, begin and end; those below act on real
connections and real processes.
"""

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mpim_lab.errors import FaultUnavailable, InvalidParameter, ServerFailed
from mpim_lab.events import EventKind, now
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.pubsub.queue import MessageQueue

DESCRIPTIONS = {
    "away": (
        "the subscriber leaves between the sender's status check and its publish, and comes back "
        "later"
    ),
    "cut": (
        "the subscriber's connection is cut (CLIENT KILL); it cannot reconnect while the fault "
        "lasts"
    ),
    "kill": "the server is killed (SIGKILL) and started again",
    "pause": (
        "the server is stopped (SIGSTOP) and goes on later, as if nothing had happened (SIGCONT)"
    ),
    "slow": "the subscriber's handler stalls; the server cuts it off at its output buffer limit",
    "crash before work": (
        "the worker dies with a message in hand, before its work; another is started later"
    ),
    "crash after work": (
        "the worker dies after a message's work and before its acknowledgement; another is "
        "started later"
    ),
    "crash after ack": (
        "the worker dies after it has acknowledged a message; another is started later"
    ),
    "poison": "a message that no handler can handle",
    "zombie": (
        "the worker sleeps with a message in hand for so long that another takes it over; then "
        "it wakes up"
    ),
    "server kill": (
        "the worker dies, messages wait, the server is killed (SIGKILL) and started again"
    ),
    "slow worker": (
        "the worker is slow with one message, within its rights, while another worker takes the "
        "next ones"
    ),
    "answer to the worker lost": (
        "the line breaks after a message's effect was written, before the worker hears of it"
    ),
    "request lost": "the sender's line breaks before its command reaches the server",
    "request late": (
        "the sender's command is held on its way for so long that it repeats it; then it arrives "
        "after all"
    ),
    "answer lost": (
        "the server does the sender's command, and the line breaks before the answer arrives"
    ),
    "answer late": (
        "the server does the sender's command, and the answer comes after the sender has given "
        "up waiting"
    ),
    "interleave": (
        "a gateway is held up before its last step for one message, while another gateway sends "
        "the next ones"
    ),
    "gateway dies": (
        "a gateway dies before its last step for one message; the client sends it again through "
        "the other"
    ),
    "sent twice": (
        "the application sends the same message twice: a second click, a retry further up"
    ),
    "quiet": "after the burst nobody writes any more",
    "closed": "the sender closes its batcher right after the burst, and its process ends",
    "flush fails": (
        "the sender's connection is cut (CLIENT KILL) and does not come back while batches are "
        "to be sent"
    ),
    "too large": "one message is larger than the queue takes",
    "old sender": "some messages come from a sender that does not compress",
    "new sender": (
        "some messages come from a sender that compresses in a newer way, with a dictionary"
    ),
    "cut off": "some messages come from a sender with a bug: their last bytes are missing",
    "changed": "one bit of some messages is changed on the way",
    "bomb": "one message is a bomb: 64 KB that unpack to 64 MB",
    "leak": "a caller raises while it has a connection",
    "cancelled": "a caller is cancelled in the middle of a reply",
    "broken connection": "a connection is cut (CLIENT KILL) while a caller waits on it",
    "idle rot": "the connections that lie idle are cut; it is found out when the load rises",
    "exhaustion": "as many slow callers as there are connections",
    "server restart": "the server is killed (SIGKILL) and started again",
    "receiver flaps": (
        "the receiver leaves between the status check and the push, and comes back later"
    ),
    "gateway killed": (
        "the receiver's gateway is killed and its route stays; the receiver comes back at "
        "another one"
    ),
    "partition": (
        "the receiver's gateway is cut off from the server and cannot reconnect while the fault "
        "lasts"
    ),
    "dies before the push": (
        "the gateway with the message service dies before its push; the client sends again "
        "elsewhere"
    ),
    "dies after the push": (
        "the gateway with the message service dies after its push; the client sends again elsewhere"
    ),
    "half the group": (
        "the gateway with the message service dies when half of the group has the message"
    ),
    "return breaks": "the receiver was away; as it is given what waited for it, its line breaks",
    "late unbind": "the receiver moves to another gateway, and the old one unbinds it afterwards",
    "two at once": "a message is sent twice, and two workers have a copy each at the same time",
}
PUBSUB_FAULTS = ("away", "cut", "kill", "pause", "slow")
SENDER_FAULTS = (
    "request lost",
    "request late",
    "answer lost",
    "answer late",
    "sent twice",
    "two at once",
)
WORKER_FAULTS = (
    "crash before work",
    "crash after work",
    "crash after ack",
    "poison",
    "zombie",
    "server kill",
)


@dataclass(frozen=True)
class Fault:
    """One fault of a run.

    Args:
        kind: a key of `DESCRIPTIONS`.
        at: the attempt that it hits; the first is 1.
        duration: for how many attempts it lasts.

    Raises:
        InvalidParameter: there is no such kind, or a number is below 1.
    """

    kind: str
    at: int
    duration: int

    def __post_init__(self) -> None:
        if self.kind not in DESCRIPTIONS:
            raise InvalidParameter(
                f"{self.kind!r} is no fault; there are {', '.join(DESCRIPTIONS)}"
            )
        if self.at < 1 or self.duration < 1:
            raise InvalidParameter(
                f"{self}: attempts are counted from 1, and a fault lasts for at least one"
            )


def schedule_faults(seed: int, kind: str, messages: int, duration: int) -> list[Fault]:
    """Choose where faults hit, never before the second message.

    Args:
        seed: the same seed gives the same faults.
        kind: a key of `DESCRIPTIONS`.
        messages: how many are sent.
        duration: for how many attempts one lasts; of "away", how many short ones there are.

    Returns:
        The faults, in their order.

    Examples:
        >>> [fault.at for fault in schedule_faults(7, "away", messages=24, duration=3)]
        [2, 17, 18]
        >>> schedule_faults(7, "cut", messages=24, duration=3)
        [Fault(kind='cut', at=4, duration=3)]
    """
    rng = random.Random(f"{seed} {kind}")
    if kind == "away":
        places = sorted(rng.sample(range(2, messages + 1), min(duration, messages - 1)))
        return [Fault(kind, place, 1) for place in places]
    return [Fault(kind, rng.randint(2, max(2, messages - duration - 2)), duration)]


FaultAction = tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]


class FaultInjector:
    """An injector that begins and ends faults as the sender's attempts are counted.

    At most one of a kind at a time.

    Args:
        causes: by kind, how to begin a fault and how to end it.
        trace: where both are recorded.
    """

    def __init__(self, causes: Mapping[str, FaultAction], trace: Trace) -> None:
        self._causes, self._trace = causes, trace
        self._planned: list[Fault] = []
        self._active: dict[str, int] = {}  # kind → the last attempt it lasts for
        self._attempts = 0

    @property
    def active(self) -> frozenset[str]:
        """The kinds that last now."""
        return frozenset(self._active)

    def add(self, fault: Fault) -> None:
        """Plan a fault.

        Args:
            fault: what, when, and for how long.

        Raises:
            FaultUnavailable: it cannot be caused here.
        """
        if fault.kind not in self._causes:
            raise FaultUnavailable(f"{fault.kind!r} cannot be caused here")
        self._planned.append(fault)

    def inject(self, kind: str, duration: int) -> None:
        """Plan a fault before the next attempt, unless one of its kind lasts already.

        Args:
            kind: which.
            duration: for how many attempts.

        Raises:
            FaultUnavailable: it cannot be caused here.
        """
        if kind not in self._active:
            self.add(Fault(kind, self._attempts + 1, duration))

    async def before_attempt(self) -> None:
        """Count an attempt and begin what is due."""
        self._attempts += 1
        for fault in [fault for fault in self._planned if fault.at <= self._attempts]:
            self._planned.remove(fault)
            if fault.kind not in self._active:
                self._active[fault.kind] = self._attempts + fault.duration - 1
                self._trace.record(EventKind.FAULT_BEGAN, "lab", fault.kind)
                await self._causes[fault.kind][0]()

    async def after_attempt(self) -> None:
        """End what has lasted long enough."""
        for kind in [kind for kind, last in self._active.items() if last <= self._attempts]:
            await self._end(kind)

    async def clear(self) -> None:
        """End all active faults."""
        for kind in list(self._active):
            await self._end(kind)

    async def _end(self, kind: str) -> None:
        await self._causes[kind][1]()
        del self._active[kind]
        self._trace.record(EventKind.FAULT_ENDED, "lab", kind)


class FaultyQueue:
    """The sender's queue, with faults between its status check and its publish.

    An attempt is a publish, or a check after which no publish comes (nobody there, no answer).
    Everything else is the queue's own.
    """

    def __init__(self, queue: MessageQueue, faults: FaultInjector) -> None:
        self._queue, self._faults = queue, faults

    async def subscriber_count(self, channel: str) -> int:
        """Count as the queue does."""
        listeners = 0
        try:
            listeners = await self._queue.subscriber_count(channel)
        finally:
            if not listeners:
                await self._faults.before_attempt()
                await self._faults.after_attempt()
        return listeners

    async def publish(self, channel: str, payload: bytes | str) -> int:
        """Publish once the faults that are due have begun."""
        await self._faults.before_attempt()
        try:
            return await self._queue.publish(channel, payload)
        finally:
            await self._faults.after_attempt()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


class Gate:
    """A gate that holds back a handler or a reconnection. Open at first."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    async def close(self) -> None:
        """Hold back from now on."""
        self._open.clear()

    def open(self) -> None:
        """Release whoever waits."""
        self._open.set()

    async def wait(self) -> None:
        """Return at once while open, otherwise when it opens."""
        await self._open.wait()

    async def sleep(self, seconds: float) -> None:
        """Sleep, and longer while held back: for the `sleep` of a MessageQueue."""
        await asyncio.sleep(seconds)
        await self._open.wait()


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = 10.0
) -> None:
    """Wait until the condition is true. Raise ServerFailed, saying what did not happen in time."""
    try:
        async with asyncio.timeout(timeout_s):
            while not (await met if inspect.isawaitable(met := condition()) else met):
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise ServerFailed(f"{what} did not happen within {timeout_s:g} s") from None


class IdleDetector:
    """A detector of how long a trace has had no new event, counted in polls of it.

    The time between two polls counts for MAX_POLL_GAP_S at most: while the whole machine stands
    still, no event can come.
    """

    MAX_POLL_GAP_S = 0.01

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.restart()

    def restart(self) -> None:
        """Count from here."""
        self._events, self._polled_at, self._idle_s = -1, now(), 0.0

    def is_idle_for(self, seconds: float) -> bool:
        """Poll the trace. Return whether nothing has happened for so many seconds of polls."""
        events, at = len(self._trace), now()
        self._idle_s += min(at - self._polled_at, self.MAX_POLL_GAP_S)
        if events != self._events:
            self._events, self._idle_s = events, 0.0
        self._polled_at = at
        return self._idle_s > seconds


def check_available(server: EmbeddedServer | ExternalServer, *faults: str) -> None:
    """Raise FaultUnavailable for the first of these that this server does not offer."""
    for fault in faults:
        if reason := server.unavailable_reason(fault):
            raise FaultUnavailable(reason)


def server_faults(server: EmbeddedServer | ExternalServer) -> dict[str, FaultAction]:
    """Return the faults that hit the server's process, as far as it is ours."""

    async def kill() -> None:
        server.kill()

    async def pause() -> None:
        server.pause()

    async def resume() -> None:
        server.resume()

    causes: dict[str, FaultAction] = {"kill": (kill, server.start), "pause": (pause, resume)}
    return {
        kind: cause for kind, cause in causes.items() if server.unavailable_reason(kind) is None
    }
