"""Chapter 5: alice writes in bursts through a batcher.

Which of her messages does bob get, and what was acknowledged?
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from mpim_lab.chapters.ch05_batching.scenario import (
    BATCH,
    BATCHING_FAULTS,
    DESIGNS,
    LONG_WINDOW_MS,
    TOO_MANY_BYTES,
    WINDOW_MS,
    BatchingScenario,
    designs,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.faults.injector import schedule_faults
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.lab.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class BurstExperiment(Experiment):
    """The experiment of chapter 5: alice sends a burst.

    Batches are of 4 messages, or what came in a window.
    """

    title: ClassVar[str] = "What becomes of a burst?"
    faults: ClassVar[tuple[str, ...]] = ("flush fails",)

    design: str = parameter("naive", "how alice batches", choices=tuple(DESIGNS))
    fault: str = parameter("quiet", "what goes wrong", choices=("none", *BATCHING_FAULTS))
    messages: int = parameter(14, "how many messages alice sends", low=4, high=1_000)
    duration: int = parameter(
        4, "for how many of her messages the connection is down", low=1, high=100
    )
    pace_ms: int = parameter(0, "pause between two messages", low=0, high=500, step=10)
    seed: int = parameter(
        7, "chooses which message the fault hits, and the texts", low=0, high=9_999
    )

    async def execute(self, run: Run) -> Verdict:
        """Send the burst, fault included.

        The verdict is bob's, and what is left in a batch is stalled.
        """
        is_planned = self.fault in ("flush fails", "answer lost")
        planned = (
            schedule_faults(self.seed, self.fault, self.messages - 2, self.duration)
            if is_planned
            else []
        )
        design, closed = designs(self._window_ms())[self.design], self.fault == "closed"
        async with (
            open_server() as server,
            BatchingScenario(server, run, design, planned, closed=closed) as scenario,
        ):
            for payload in self._burst():
                if run.stopping:
                    break
                await scenario.send(payload)
                await asyncio.sleep(self.pace_ms / 1e3)
            await scenario.finish()
        return check_burst(run.trace)

    def _window_ms(self) -> float:
        """Long where the end of a window is not the point.

        A slow machine must not close a batch in the middle.
        """
        return WINDOW_MS if self.fault == "quiet" or self.pace_ms else LONG_WINDOW_MS

    def _burst(self) -> Iterator[bytes]:
        """What alice sends. Whole batches, where the end of the burst is not the point."""
        count = self.messages - (0 if self.fault in ("quiet", "closed") else self.messages % BATCH)
        large = (
            schedule_faults(self.seed, "too large", count, 1)[0].at
            if self.fault == "too large"
            else 0
        )
        for number, payload in enumerate(Workload(self.seed, count), start=1):
            yield payload.ljust(TOO_MANY_BYTES, b".") if number == large else payload


def check_burst(trace: Trace) -> Verdict:
    """Judge what bob handled against what alice handed over and what was acknowledged to her."""

    def ids(kind: EventKind, actor: str, outcome: str | None = None) -> list[str]:
        return [
            event.message_id
            for event in trace.by_kind(kind)
            if event.actor == actor and outcome in (None, event.outcome)
        ]

    sent = list(
        dict.fromkeys(
            event.message_id for event in trace.by_kind(EventKind.ACCEPTED, EventKind.OUTCOME)
        )
    )
    acknowledged, stalled = (
        ids(EventKind.OUTCOME, "alice", "accepted"),
        ids(EventKind.STALLED, "alice"),
    )
    return check(
        sent,
        ids(EventKind.HANDLED, "bob"),
        acknowledged,
        stalled=stalled,
        acknowledgement="accepted",
    )


async def burst_table(seed: int = 7) -> pd.DataFrame:
    """Every design under every fault: one row a run, the same in every run."""
    rows = []
    for fault in BATCHING_FAULTS:
        for design in DESIGNS:
            verdict = (await BurstExperiment(design=design, fault=fault, seed=seed).run()).verdict
            rows.append(
                {
                    "fault": fault,
                    "design": design,
                    "lost": len(verdict.lost),
                    "acknowledged but lost": len(verdict.silently_lost),
                    "stalled in a batch": len(verdict.stalled),
                    "observed": verdict.semantics,
                }
            )
    return pd.DataFrame(rows).set_index(["fault", "design"])
