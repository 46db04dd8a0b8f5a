"""PipelineFaults: which fault hits which message, on alice's connection or in a worker."""

import contextlib
from collections.abc import AsyncIterator

from mpim_lab.events import EventKind
from mpim_lab.lab.faults.injector import SENDER_FAULTS
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.trace.trace import Trace

REPEATED = ("sent twice", "two at once")


class PipelineFaults:
    """The planned faults of a run.

    Those of alice's connection, caused here, and those of workers, which meet them.
    """

    def __init__(self, proxy: FaultProxy, trace: Trace, planned: dict[str, str]) -> None:
        self._proxy, self._trace = proxy, trace
        self._of_senders: dict[str, str] = {}
        self.of_workers: dict[str, str] = {}
        self.ignored: set[str] = set()  # messages that no worker will begin
        # Which fault holds something back, and for how many more messages.
        self._held: tuple[str, int] | None = None
        for message, kind in planned.items():
            self.plan(message, kind)

    def plan(self, message: str, kind: str) -> None:
        """Plan a fault at a message that is still to come."""
        if kind in SENDER_FAULTS:
            self._of_senders[message] = kind
        if kind not in SENDER_FAULTS or kind == "two at once":
            self.of_workers[message] = kind

    @contextlib.asynccontextmanager
    async def during(self, message: str, duration: int) -> AsyncIterator[int]:
        """Inject a message's fault while it is sent; yield how often the application sends it."""
        kind = self._of_senders.pop(message, "")
        match = Match(containing=message.encode() + b" ")
        arm = {
            "request lost": self._proxy.drop_request,
            "answer lost": self._proxy.drop_reply,
            "answer late": self._proxy.delay_reply,
            "request late": self._proxy.delay_request,
        }.get(kind)
        if kind and kind != "two at once":
            self._trace.record(EventKind.FAULT_BEGAN, "lab", kind)
        if arm is not None:
            arm(match)
        yield 2 if kind in REPEATED else 1
        if kind in ("answer late", "request late"):
            self._held = (kind, duration)
        elif kind and kind != "two at once":
            self._trace.record(EventKind.FAULT_ENDED, "lab", kind)

    async def advance(self) -> bool:
        """Count one message that is about to be sent.

        Return True if what was held back was released before it.
        """
        if self._held is None:
            return False
        kind, left = self._held
        self._held = (kind, left - 1)
        if left > 1:
            return False
        await self.release()
        return True

    async def release(self) -> None:
        """Release what is held back."""
        if self._held is not None:
            (kind, _), self._held = self._held, None
            self._proxy.release()
            await self._proxy.wait_flushed()
            self._trace.record(EventKind.FAULT_ENDED, "lab", kind)
