"""Chapter 8: alice writes, bob or a group reads, over three gateways.

The naive and the correct design, same faults.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from mpim_lab.chapters.ch08_im.faults import IM_FAULTS
from mpim_lab.chapters.ch08_im.scenario import DESIGNS, ImDesign, ImScenario
from mpim_lab.chapters.shared import experiment
from mpim_lab.chapters.shared.experiment import ScenarioExperiment
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.lab.exercise.experiment import Run, parameter
from mpim_lab.lab.faults.injector import Fault
from mpim_lab.lab.trace.checker import Verdict

MEMBERS = ("bob", "carol", "dave", "erin")
ALL_FAULTS = "all of them"
_EVERY = 8  # messages, where faults follow one another
COMPARED_FAULTS = ("none", *IM_FAULTS, ALL_FAULTS)
FLAWLESS = "✔ once, in order"


@dataclass(frozen=True, kw_only=True)
class ImExperiment(ScenarioExperiment):
    """The experiment of chapter 8: messages from alice.

    A fault hits one of them and lasts for some.
    """

    title: ClassVar[str] = "Who got the message?"
    faults: ClassVar[tuple[str, ...]] = IM_FAULTS
    designs: ClassVar[dict[str, ImDesign]] = DESIGNS

    design: str = parameter("naive", "how messages are sent and read", choices=tuple(DESIGNS))
    fault: str = parameter(
        "receiver flaps", "what goes wrong", choices=("none", *IM_FAULTS, ALL_FAULTS)
    )
    messages: int = parameter(12, "how many messages alice sends", low=6, high=200)
    duration: int = parameter(3, "how many messages come while it lasts", low=1, high=50)
    group: bool = parameter(False, "to a group of four instead of to bob alone")
    persistence: ClassVar[str] = "always"

    def scenario(self, server: Server, run: Run) -> ImScenario:
        """Return the system with the selected design, and who reads."""
        readers = MEMBERS if self.group or self.fault == "half the group" else MEMBERS[:1]
        design = self.selected_design
        return ImScenario(server, run, design, self.planned(), self.duration, readers)

    def planned(self) -> list[Fault]:
        """Return the faults of the run."""
        return all_faults_schedule(self.seed) if self.fault == ALL_FAULTS else super().planned()

    def payloads(self) -> list[str]:
        """Return the names of what alice sends."""
        count = max(self.messages, _EVERY * len(self.planned()))
        return [f"m{number}" for number in range(1, count + 1)]

    def judge(self, run: Run, scenario: ImScenario) -> Verdict:
        """Judge by what each reader's application was handed."""
        return scenario.verdict


def all_faults_schedule(seed: int) -> list[Fault]:
    """Return every fault that can happen in one run, in an order the seed chooses.

    Without the late unbind, for which the naive version must unbind: then it has no stale routes,
    and fewer of the other troubles.
    """
    chance = random.Random(f"{seed} all of them")
    kinds = [fault for fault in IM_FAULTS if fault not in ("late unbind", "half the group")]
    chance.shuffle(kinds)
    return [
        Fault(kind, _EVERY * place + chance.randint(2, 3), 1) for place, kind in enumerate(kinds)
    ]


async def compare_designs(
    faults: Sequence[str] = COMPARED_FAULTS, *, seed: int = 7, messages: int = 12
) -> pd.DataFrame:
    """Return both designs under every fault.

    One row a fault, one column a design, and in it what was observed.
    """
    return await experiment.compare_designs(
        ImExperiment,
        faults=faults,
        seed=seed,
        messages=messages,
        flawless=FLAWLESS,
        max_concurrent=3,
    )
