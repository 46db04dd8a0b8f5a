"""Chapter 5: alice writes in bursts through a batcher.

Which of her messages does bob get, and what was acknowledged?
"""

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
    BatchingDesign,
    BatchingScenario,
    designs,
)
from mpim_lab.chapters.shared.experiment import ScenarioExperiment, count_messages, run_designs
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Run, parameter
from mpim_lab.lab.faults.injector import Fault, schedule_faults
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.lab.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class BurstExperiment(ScenarioExperiment):
    """The experiment of chapter 5: alice sends a burst.

    Batches are of 4 messages, or what came in a window.
    """

    title: ClassVar[str] = "What becomes of a burst?"
    faults: ClassVar[tuple[str, ...]] = ("flush fails",)
    designs: ClassVar[dict[str, BatchingDesign]] = DESIGNS

    design: str = parameter("naive", "how alice batches", choices=tuple(DESIGNS))
    fault: str = parameter("quiet", "what goes wrong", choices=("none", *BATCHING_FAULTS))
    messages: int = parameter(14, "how many messages alice sends", low=4, high=1_000)
    duration: int = parameter(
        4, "for how many of her messages the connection is down", low=1, high=100
    )

    def scenario(self, server: Server, run: Run) -> BatchingScenario:
        """Return alice with the selected design, and bob."""
        design = designs(self._window_ms())[self.design]
        return BatchingScenario(server, run, design, self.planned(), closed=self.fault == "closed")

    def judge(self, run: Run, scenario: BatchingScenario) -> Verdict:
        """Judge what bob handled; what is left in a batch is stalled."""
        return check_burst(run.trace)

    def planned(self) -> list[Fault]:
        """Return the faults that hit a message; the others are about the burst."""
        if self.fault not in ("flush fails", "answer lost"):
            return []
        return schedule_faults(self.seed, self.fault, self.messages - 2, self.duration)

    def _window_ms(self) -> float:
        """Long where the end of a window is not the point.

        A slow machine must not close a batch in the middle.
        """
        return WINDOW_MS if self.fault == "quiet" or self.pace_ms else LONG_WINDOW_MS

    def payloads(self) -> Iterator[bytes]:
        """Return the burst. Whole batches, where the end of the burst is not the point."""
        count = self.messages - (0 if self.fault in ("quiet", "closed") else self.messages % BATCH)
        large = 0
        if self.fault == "too large":
            large = schedule_faults(self.seed, "too large", count, 1)[0].at
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

    sent = [event.message_id for event in trace.by_kind(EventKind.ACCEPTED, EventKind.OUTCOME)]
    return check(
        list(dict.fromkeys(sent)),
        ids(EventKind.HANDLED, "bob"),
        ids(EventKind.OUTCOME, "alice", "accepted"),
        stalled=ids(EventKind.STALLED, "alice"),
        acknowledgement="accepted",
    )


async def burst_table(seed: int = 7) -> pd.DataFrame:
    """Return every design under every fault: one row a run, the same in every run."""
    results = await run_designs(BurstExperiment, BATCHING_FAULTS, seed=seed)
    columns = {"lost": "lost", "acknowledged but lost": "silently_lost"}
    return count_messages(results, columns | {"stalled in a batch": "stalled"})
