"""Chapter 8: alice writes, bob or a group reads, over three gateways.

The naive and the correct design, same faults.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from mpim_lab.chapters.ch08_im.faults import IM_FAULTS
from mpim_lab.chapters.ch08_im.scenario import ImScenario
from mpim_lab.lab.exercise.experiment import Experiment, Result, Run, parameter
from mpim_lab.lab.faults.injector import schedule_faults
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict

DESIGNS = ("naive", "correct")
MEMBERS = ("bob", "carol", "dave", "erin")
_MAX_CONCURRENT = 3
ALL_FAULTS = "all of them"
_EVERY = 8  # messages, where faults follow one another
# The table's rows: each fault, and whether it hits a message to one reader or to a group of four.
COMPARED_FAULTS = (
    ("none", False),
    ("receiver flaps", False),
    ("gateway killed", False),
    ("server restart", False),
    ("partition", False),
    ("dies before the push", False),
    ("dies after the push", False),
    ("sent twice", False),
    ("interleave", False),
    ("return breaks", False),
    ("late unbind", False),
    ("half the group", True),
    (ALL_FAULTS, False),
)


@dataclass(frozen=True, kw_only=True)
class ImExperiment(Experiment):
    """The experiment of chapter 8: messages from alice.

    A fault hits one of them and lasts for some.
    """

    title: ClassVar[str] = "Who got the message?"
    faults: ClassVar[tuple[str, ...]] = IM_FAULTS

    design: str = parameter("naive", "how messages are sent and read", choices=DESIGNS)
    fault: str = parameter(
        "receiver flaps", "what goes wrong", choices=("none", *IM_FAULTS, ALL_FAULTS)
    )
    group: bool = parameter(False, "to a group of four instead of to bob alone")
    messages: int = parameter(12, "how many messages alice sends", low=6, high=200)
    duration: int = parameter(3, "how many messages come while it lasts", low=1, high=50)
    pace_ms: int = parameter(0, "pause between two messages", low=0, high=500, step=10)
    seed: int = parameter(7, "chooses which message the fault hits", low=0, high=9_999)

    def _faults_by_message(self) -> dict[str, str]:
        if self.fault == ALL_FAULTS:
            return all_faults_schedule(self.seed)
        planned = (
            []
            if self.fault == "none"
            else schedule_faults(self.seed, self.fault, self.messages, self.duration)
        )
        return {f"m{fault.at}": fault.kind for fault in planned}

    async def execute(self, run: Run) -> Verdict:
        """Send everything, fault included; judged by what each reader's application was handed."""
        fault_of = self._faults_by_message()
        readers = MEMBERS if self.group or self.fault == "half the group" else MEMBERS[:1]
        server = open_server(persistence="always")
        async with (
            server,
            ImScenario(server, run, self.design, fault_of, self.duration, readers) as scenario,
        ):
            run.injector = scenario.inject
            for number in range(1, max(self.messages, _EVERY * len(fault_of)) + 1):
                if run.stopping:
                    break
                await scenario.send(f"m{number}")
                await asyncio.sleep(self.pace_ms / 1e3)
            run.injector = None
            await scenario.finish()
            return await scenario.verdict()


def all_faults_schedule(seed: int) -> dict[str, str]:
    """Return every fault that can happen in one run, in an order the seed chooses: message → fault.

    Without the late unbind, for which the naive version must unbind: then it has no ghosts, and
    fewer of the other troubles.
    """
    chance = random.Random(f"{seed} all of them")
    kinds = [fault for fault in IM_FAULTS if fault not in ("late unbind", "half the group")]
    chance.shuffle(kinds)
    return {f"m{_EVERY * place + chance.randint(2, 3)}": fault for place, fault in enumerate(kinds)}


async def compare_designs(
    faults: Sequence[tuple[str, bool]] = COMPARED_FAULTS, *, seed: int = 7, messages: int = 12
) -> pd.DataFrame:
    """Return both designs under every fault.

    One row a fault, one column a design, and in it what was observed.
    """
    slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def one(design: str, fault: str, group: bool) -> Result:
        async with slots:
            return await ImExperiment(
                design=design, fault=fault, group=group, seed=seed, messages=messages
            ).run()

    cases = [(design, fault, group) for fault, group in faults for design in DESIGNS]
    results = dict(zip(cases, await asyncio.gather(*(one(*case) for case in cases)), strict=True))
    rows = {
        fault: {design: summarize(results[design, fault, group].verdict) for design in DESIGNS}
        for fault, group in faults
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def summarize(verdict: Verdict) -> str:
    """Return what went wrong, in a few words.

    >>> summarize(Verdict(sent=3, delivered=3)), summarize(Verdict(sent=3, delivered=2, lost=("m2",), reordered=("m3",)))
    ('✔ once, in order', '1 lost, 1 out of order')
    """
    counts = {
        "lost": verdict.lost,
        "twice": verdict.duplicated,
        "out of order": verdict.reordered,
        "left waiting": verdict.stalled,
    }
    return (
        ", ".join(f"{len(ids)} {name}" for name, ids in counts.items() if ids) or "✔ once, in order"
    )
