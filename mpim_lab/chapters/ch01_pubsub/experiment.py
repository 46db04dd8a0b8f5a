"""Chapter 1: alice sends, bob receives, over Pub/Sub.

A fault is injected; who got what, and what was acknowledged?
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from mpim_lab.chapters.ch01_pubsub.naive import NaiveSender
from mpim_lab.chapters.ch01_pubsub.scenario import CHANNEL, PHOTO_BYTES, PubSubScenario
from mpim_lab.chapters.shared.experiment import ScenarioExperiment, count_messages, run_designs
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.lab.exercise.experiment import Run, parameter
from mpim_lab.lab.faults.injector import PUBSUB_FAULTS
from mpim_lab.lab.trace.checker import Verdict, check_trace
from mpim_lab.lab.workload.workload import Workload
from mpim_lab.mq.pubsub.confirmed import AckedPublisher

DESIGNS: dict[str, Any] = {"naive": NaiveSender, "confirmed": AckedPublisher}


@dataclass(frozen=True, kw_only=True)
class PubSubDelivery(ScenarioExperiment):
    """The experiment of chapter 1: alice sends `messages` to bob.

    A fault lasts for `duration` of her publishes.
    """

    title: ClassVar[str] = "Who gets the message?"
    faults: ClassVar[tuple[str, ...]] = PUBSUB_FAULTS
    designs: ClassVar[dict[str, Any]] = DESIGNS

    design: str = parameter("naive", "how alice sends", choices=tuple(DESIGNS))
    fault: str = parameter("away", "what goes wrong", choices=("none", *PUBSUB_FAULTS))
    messages: int = parameter(24, "how many messages alice sends", low=4, high=2_000)
    duration: int = parameter(6, "for how many of her publishes the fault lasts", low=1, high=200)

    def scenario(self, server: Server, run: Run) -> PubSubScenario:
        """Return alice and bob, with the selected sender."""
        return PubSubScenario(server, run, self.selected_design, self.planned(), self.duration)

    def payloads(self) -> Iterable[bytes]:
        """Return what alice sends: photos, where bob is to be slow."""
        photo = PHOTO_BYTES if self.fault == "slow" else 0
        return Workload(self.seed, self.messages, min_bytes=photo)

    def judge(self, run: Run, scenario: PubSubScenario) -> Verdict:
        """Judge what bob handled."""
        return check_trace(run.trace, "bob", CHANNEL)


async def fault_table(seed: int = 7, *, messages: int = 24) -> pd.DataFrame:
    """Return both designs under every fault: one row a run, the same in every run."""
    parameters = {"seed": seed, "messages": messages}
    short = [fault for fault in PUBSUB_FAULTS if fault != "slow"]
    results = await run_designs(PubSubDelivery, short, duration=2, **parameters)
    results |= await run_designs(PubSubDelivery, ["slow"], duration=10, **parameters)
    columns = {"lost": "lost", "acknowledged but lost": "silently_lost", "duplicated": "duplicated"}
    return count_messages(results, columns)
