"""Chapter 2: alice adds orders to a stream, workers handle them.

A worker dies; which orders were done, and how often?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from mpim_lab.chapters.ch02_streams.naive import (
    AckFirstWorker,
    EndlessRetryWorker,
    NoAckWorker,
    NoClaimWorker,
)
from mpim_lab.chapters.ch02_streams.scenario import StreamScenario
from mpim_lab.chapters.shared.designs import STREAM
from mpim_lab.chapters.shared.experiment import ScenarioExperiment, count_messages, run_designs
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.chapters.shared.worker_fleet import correct_worker
from mpim_lab.lab.exercise.experiment import Run, parameter
from mpim_lab.lab.faults.injector import WORKER_FAULTS
from mpim_lab.lab.server.embedded import PERSISTENCE
from mpim_lab.lab.trace.checker import Verdict, check_effects

DESIGNS: dict[str, Any] = {
    "no ack": NoAckWorker,
    "ack first": AckFirstWorker,
    "no claim": NoClaimWorker,
    "endless retry": EndlessRetryWorker,
    "correct": correct_worker,
}


@dataclass(frozen=True, kw_only=True)
class StreamDelivery(ScenarioExperiment):
    """The experiment of chapter 2: alice adds `messages` orders.

    After a crash no worker is alive for `duration` of them.
    """

    title: ClassVar[str] = "Which orders were done?"
    faults: ClassVar[tuple[str, ...]] = WORKER_FAULTS
    designs: ClassVar[dict[str, Any]] = DESIGNS

    design: str = parameter(
        "ack first", "how the workers read, handle and acknowledge", choices=tuple(DESIGNS)
    )
    fault: str = parameter("crash before work", "what goes wrong", choices=("none", *WORKER_FAULTS))
    messages: int = parameter(16, "how many orders alice adds", low=6, high=1_000)
    persistence: str = parameter(
        "none", "what the server keeps on disk (appendfsync)", choices=tuple(PERSISTENCE)
    )

    def scenario(self, server: Server, run: Run) -> StreamScenario:
        """Return alice's orders with workers of the selected design."""
        return StreamScenario(server, run, self.selected_design, self.planned(), self.duration)

    def judge(self, run: Run, scenario: StreamScenario) -> Verdict:
        """Judge the effects, whoever had them."""
        return check_effects(run.trace, STREAM)


async def compare_designs(seed: int = 7, *, faults: Sequence[str] = WORKER_FAULTS) -> pd.DataFrame:
    """Return every design under every fault: one row a run, the same in every run."""
    names = ("lost", "duplicated", "reordered", "stalled", "dead_lettered")
    results = await run_designs(StreamDelivery, faults, seed=seed)
    return count_messages(results, dict(zip(names, names, strict=True)))
