"""Chapter 2: alice adds orders to a stream, workers handle them.

A worker dies; which orders were done, and how often?
"""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from mpim_lab.chapters.ch02_streams.designs import NAIVE_WORKERS
from mpim_lab.chapters.ch02_streams.scenario import STREAM, StreamScenario
from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.faults.injector import WORKER_FAULTS, schedule_faults
from mpim_lab.lab.server.embedded import PERSISTENCE, open_server
from mpim_lab.lab.trace.checker import Verdict, check_effects
from mpim_lab.lab.workload.workload import Workload

DESIGNS = (*NAIVE_WORKERS, "correct")


@dataclass(frozen=True, kw_only=True)
class StreamDelivery(Experiment):
    """The experiment of chapter 2: alice adds `messages` orders.

    After a crash no worker is alive for `duration` of them.
    """

    title: ClassVar[str] = "Which orders were done?"
    faults: ClassVar[tuple[str, ...]] = WORKER_FAULTS

    design: str = parameter(
        "ack first", "how the workers read, handle and acknowledge", choices=DESIGNS
    )
    fault: str = parameter("crash before work", "what goes wrong", choices=("none", *WORKER_FAULTS))
    messages: int = parameter(16, "how many orders alice adds", low=6, high=1_000)
    duration: int = parameter(3, "how many orders come while nobody works", low=1, high=100)
    persistence: str = parameter(
        "none", "what the server keeps on disk (appendfsync)", choices=tuple(PERSISTENCE)
    )
    pace_ms: int = parameter(0, "pause between two orders", low=0, high=500, step=10)
    seed: int = parameter(7, "chooses which order the fault hits, and the texts", low=0, high=9_999)

    async def execute(self, run: Run) -> Verdict:
        """Add everything, fault included; the verdict is about effects."""
        planned = (
            []
            if self.fault == "none"
            else schedule_faults(self.seed, self.fault, self.messages, self.duration)
        )
        async with (
            open_server(persistence=self.persistence) as server,
            StreamScenario(
                server,
                run,
                design=self.design,
                planned=planned,
                duration=self.duration,
            ) as scenario,
        ):
            for payload in Workload(self.seed, self.messages):
                if run.stopping:
                    break
                await scenario.send(payload)
                await asyncio.sleep(self.pace_ms / 1e3)
            await scenario.finish()
        return check_effects(run.trace, STREAM)


async def compare_designs(seed: int = 7) -> pd.DataFrame:
    """Return every design under every fault: one row a run, the same in every run."""
    rows = []
    for fault in WORKER_FAULTS:
        for design in DESIGNS:
            verdict = (await StreamDelivery(design=design, fault=fault, seed=seed).run()).verdict
            counts = {
                name: len(getattr(verdict, name))
                for name in ("lost", "duplicated", "reordered", "stalled", "dead_lettered")
            }
            rows.append({"fault": fault, "design": design, **counts, "observed": verdict.semantics})
    return pd.DataFrame(rows).set_index(["fault", "design"])
