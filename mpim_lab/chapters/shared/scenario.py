"""Scenario: what every chapter's scenario is, from its opening to its last message."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, check_available
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue

Server = EmbeddedServer | ExternalServer
QUICK = Backoff(initial_s=0.005, max_s=0.05)


class Scenario(ABC):
    """A server, the parts that are opened on it, and faults that hit chosen messages.

    Used as a context. A subclass opens its parts in `open`, sends one message in `send`, and ends
    in `finish` what is still going on. It enters its parts into `parts`, which closes them.
    """

    limits: ClassVar[ConnectionConfig]

    def __init__(
        self,
        server: Server,
        run: Run,
        planned: Sequence[Fault] = (),
        duration: int = 1,
    ) -> None:
        self.server, self.run, self.trace = server, run, run.trace
        self.planned, self.duration = planned, duration
        # Faults that are still to come, by the message that they hit.
        self.fault_of = {f"m{fault.at}": fault.kind for fault in planned}
        self.sent: list[str] = []
        self.parts = contextlib.AsyncExitStack()

    @abstractmethod
    async def open(self) -> None:
        """Open the parts."""

    @abstractmethod
    async def send(self, payload: Any) -> None:
        """Send one message, and wait until nothing happens any more."""

    @abstractmethod
    async def finish(self) -> None:
        """End what is still going on."""

    async def __aenter__(self) -> Self:
        self.check_available(*self.fault_of.values())
        try:
            await self.open()
        except BaseException:  # what was opened must not be left behind
            await self.parts.aclose()
            raise
        self.run.injector = self.inject
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        await self.parts.aclose()

    async def play(self, payloads: Iterable[Any], pace_ms: int) -> None:
        """Send everything with this pause between two messages, until the run is stopped."""
        for payload in payloads:
            if self.run.stopping:
                break
            await self.send(payload)
            await asyncio.sleep(pace_ms / 1e3)
        await self.finish()

    def queue(
        self, name: str, url: str = "", *, kind: type[MessageQueue] = MessageQueue, **options: Any
    ) -> Any:
        """Return a queue of this run that its trace observes, at this URL or over the short way."""
        common: dict[str, Any] = {"prefix": self.server.prefix, "config": self.limits}
        url = url or self.server.unix_url or self.server.url
        return kind(url, name=name, **(common | {"observer": self.trace} | options))

    # Faults

    def check_available(self, *faults: str) -> None:
        """Raise FaultUnavailable for the first of these that this server does not offer."""
        check_available(self.server, *faults)

    async def inject(self, fault: str) -> None:
        """Plan a fault for the next message. Raise FaultUnavailable."""
        self.check_available(fault)
        self.fault_of[f"m{len(self.sent) + 1}"] = fault

    def record_began(self, fault: str) -> None:
        """Record that a fault began."""
        self.trace.record(EventKind.FAULT_BEGAN, "lab", fault)

    def record_ended(self, fault: str) -> None:
        """Record that a fault ended."""
        self.trace.record(EventKind.FAULT_ENDED, "lab", fault)


def failure_outcome(error: MpimError, done: str = "sent") -> str:
    """Return the outcome of a message whose sender got this error."""
    return f"failed{'' if error.definite else f', perhaps {done}'}: {type(error).__name__}"
