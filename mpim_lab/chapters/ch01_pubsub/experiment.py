"""Chapter 1: alice sends, bob receives, over Pub/Sub.

A fault is injected; who got what, and what was acknowledged?
"""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from mpim_lab.chapters.ch01_pubsub.scenario import CHANNEL, PHOTO_BYTES, PubSubScenario
from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.faults.injector import PUBSUB_FAULTS, schedule_faults
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict, check_trace
from mpim_lab.lab.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class PubSubDelivery(Experiment):
    """The experiment of chapter 1: alice sends `messages` to bob.

    A fault lasts for `duration` of her publishes.
    """

    title: ClassVar[str] = "Who gets the message?"
    faults: ClassVar[tuple[str, ...]] = PUBSUB_FAULTS

    design: str = parameter("naive", "how alice sends", choices=("naive", "confirmed"))
    fault: str = parameter("away", "what goes wrong", choices=("none", *PUBSUB_FAULTS))
    messages: int = parameter(24, "how many messages alice sends", low=4, high=2_000)
    duration: int = parameter(6, "for how many of her publishes the fault lasts", low=1, high=200)
    pace_ms: int = parameter(0, "pause between two messages", low=0, high=500, step=10)
    seed: int = parameter(
        7, "chooses which message the fault hits, and the texts", low=0, high=9_999
    )

    async def execute(self, run: Run) -> Verdict:
        """Send everything, fault included; the verdict is bob's."""
        planned = (
            []
            if self.fault == "none"
            else schedule_faults(self.seed, self.fault, self.messages, self.duration)
        )
        async with (
            open_server() as server,
            PubSubScenario(
                server,
                run,
                design=self.design,
                planned=planned,
                duration=self.duration,
            ) as scenario,
        ):
            photo = PHOTO_BYTES if self.fault == "slow" else 0
            for payload in Workload(self.seed, self.messages, min_bytes=photo):
                if run.stopping:
                    break
                await scenario.send(payload)
                await asyncio.sleep(self.pace_ms / 1e3)
            await scenario.faults.clear()
            await scenario.wait_idle()
        return check_trace(run.trace, "bob", CHANNEL)


async def fault_table(seed: int = 7, *, messages: int = 24) -> pd.DataFrame:
    """Return both designs under every fault: one row a run, the same in every run."""
    rows = []
    for fault in PUBSUB_FAULTS:
        for design in ("naive", "confirmed"):
            duration = 10 if fault == "slow" else 2
            experiment = PubSubDelivery(
                design=design, fault=fault, seed=seed, duration=duration, messages=messages
            )
            verdict = (await experiment.run()).verdict
            rows.append(
                {
                    "fault": fault,
                    "design": design,
                    "lost": len(verdict.lost),
                    "acknowledged but lost": len(verdict.silently_lost),
                    "duplicated": len(verdict.duplicated),
                    "observed": verdict.semantics,
                }
            )
    return pd.DataFrame(rows).set_index(["fault", "design"])
