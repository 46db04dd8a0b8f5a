"""The experiments of chapters 3 and 4: alice sends, a worker works.

And tables of designs under faults.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from mpim_lab.chapters.shared.designs import STREAM, Design
from mpim_lab.chapters.shared.pipeline_scenario import PipelineScenario
from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.faults.injector import schedule_faults
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict, check_effects
from mpim_lab.lab.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class PipelineExperiment(Experiment):
    """An experiment with `messages` messages from alice.

    What a fault holds back comes `duration` messages later.
    """

    designs: ClassVar[dict[str, Design]]

    fault: str = parameter("none", "what goes wrong")
    messages: int = parameter(12, "how many messages alice sends", low=6, high=1_000)
    duration: int = parameter(
        3, "how many messages come while something is held back", low=1, high=100
    )
    pace_ms: int = parameter(0, "pause between two messages", low=0, high=500, step=10)
    seed: int = parameter(
        7, "chooses which message the fault hits, and the texts", low=0, high=9_999
    )

    own: Design | None = None  # the learner's own, instead of a named one

    @property
    def selected_design(self) -> Design:
        """Return the design that is run."""
        return self.own or self.designs[getattr(self, "design")]  # noqa: B009

    async def execute(self, run: Run) -> Verdict:
        """Send everything, fault included; the verdict is about effects on the server."""
        planned = (
            []
            if self.fault == "none"
            else schedule_faults(self.seed, self.fault, self.messages, self.duration)
        )
        async with (
            open_server(persistence=getattr(self, "persistence", "none")) as server,
            PipelineScenario(server, run, self.selected_design, planned, self.duration) as pipeline,
        ):
            for payload in Workload(self.seed, self.messages):
                if run.stopping:
                    break
                await pipeline.send(payload)
                await asyncio.sleep(self.pace_ms / 1e3)
            await pipeline.finish()
        return check_effects(run.trace, STREAM)


async def run_concurrently(
    experiments: Sequence[Experiment], *, max_concurrent: int = 4
) -> list[Any]:
    """Run experiments side by side, each on a server of its own.

    Their results in the same order.
    """
    slots = asyncio.Semaphore(max_concurrent)

    async def one(experiment: Experiment) -> Any:
        async with slots:
            return await experiment.run()

    return await asyncio.gather(*(one(experiment) for experiment in experiments))


def summarize(verdict: Verdict) -> str:
    """Return a verdict in a few words, the same in every run."""
    found = {"lost": verdict.lost, "twice": verdict.duplicated, "out of order": verdict.reordered}
    found |= {"stalled": verdict.stalled, "dead letter": verdict.dead_lettered}
    return ", ".join(f"{len(ids)} {name}" for name, ids in found.items() if ids) or "✓"


async def compare_designs(kind: Any, *, seed: int = 7, faults: Sequence[str] = ()) -> pd.DataFrame:
    """Return every design under every fault: "✓" or what became of the messages.

    The same in every run.
    """
    faults = faults or kind.faults
    cases = [(fault, design) for fault in faults for design in kind.designs]
    runs = await run_concurrently(
        [kind(design=design, fault=fault, seed=seed) for fault, design in cases]
    )
    rows = {fault: dict[str, str]() for fault in faults}
    for (fault, design), result in zip(cases, runs, strict=True):
        rows[fault][design] = summarize(result.verdict)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(kind.designs)).rename_axis(
        "fault"
    )
