"""Chapter 7: callers who need a connection of their own.

Who gets one, who gets an error, and who waits for ever?
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from mpim_lab.chapters.ch07_pool.designs import DESIGNS, PoolDesign
from mpim_lab.chapters.ch07_pool.scenario import PoolScenario
from mpim_lab.chapters.shared.experiment import run_designs, tabulate
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.faults.injector import Fault
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace

FAULTS = ("leak", "cancelled", "broken connection", "idle rot", "exhaustion", "server restart")
HITS_MANY = ("leak", "exhaustion")  # the others need one caller
# The short one where nobody gives a connection back before the time is up.
WAIT_S, SHORT_WAIT_S = 3.0, 0.3


@dataclass(frozen=True, repr=False)
class PoolVerdict(Verdict):
    """The outcome of a run's callers.

    Done (`delivered`), refused with a named error, stalled, or given a wrong reply.

    refused: how many by the error's name. wrong: who read another caller's reply; unanswered: who
    got neither reply nor error; `lost` is both, since neither knows that it was not served. usable:
    how many of the pool's `connections` still do what they are asked.
    """

    refused: tuple[tuple[str, int], ...] = ()
    wrong: tuple[str, ...] = ()
    unanswered: tuple[str, ...] = ()
    usable: int = 0
    connections: int = 0

    def __str__(self) -> str:
        lines = [f"callers {self.sent:,}  done {self.delivered:,}"]
        lines += [f"refused {count}  ({name})" for name, count in self.refused]
        bad = {
            "stalled, waiting for ever": self.stalled,
            "given somebody else's reply": self.wrong,
            "unanswered": self.unanswered,
        }
        for name, ids in bad.items():
            lines += (
                [f"{name} {len(ids)}  ({', '.join(ids[:12])}{', …' if len(ids) > 12 else ''})"]
                if ids
                else []
            )
        return "\n".join(
            [*lines, f"connections of use at the end: {self.usable} of {self.connections}"]
        )

    __repr__ = __str__

    @property
    def summary(self) -> str:
        """The verdict in a few words, the same in every run."""
        refused = [f"{count} {name}" for name, count in self.refused]
        found = {"stalled": self.stalled, "wrong reply": self.wrong}
        parts = [
            f"{self.delivered} done",
            *refused,
            *(f"{len(ids)} {name}" for name, ids in found.items() if ids),
        ]
        return f"{', '.join(parts)}; {self.usable} of {self.connections} usable"


def evaluate(trace: Trace, usable: int, connections: int) -> PoolVerdict:
    """Return the verdict on each caller from the events of a run."""

    def ids(*kinds: EventKind) -> list[str]:
        return [event.message_id for event in trace.by_kind(*kinds)]

    failed = [(event.message_id, event.error) for event in trace.by_kind(EventKind.FAILED)]
    wrong = tuple(name for name, why in failed if why == "WrongReply")
    refused = Counter(why for name, why in failed if name not in wrong)
    base = check(
        ids(EventKind.ACCEPTED),
        ids(EventKind.HANDLED),
        stalled=ids(EventKind.STALLED),
        dead_lettered=[name for name, _ in failed],
    )
    return PoolVerdict(
        sent=base.sent,
        delivered=base.delivered,
        lost=tuple(name for name in ids(EventKind.ACCEPTED) if name in {*wrong, *base.lost}),
        duplicated=base.duplicated,
        reordered=base.reordered,
        silently_lost=wrong,
        stalled=base.stalled,
        acknowledgement="done",
        refused=tuple(sorted(refused.items())),
        wrong=wrong,
        unanswered=base.lost,
        usable=usable,
        connections=connections,
    )


@dataclass(frozen=True, kw_only=True)
class PoolExperiment(Experiment):
    """Callers that each wait for a reply on a connection of their own.

    A few at once, then one by one, then a peak.
    """

    title: ClassVar[str] = "Who gets a connection?"
    faults: ClassVar[tuple[str, ...]] = FAULTS
    designs: ClassVar[dict[str, PoolDesign]] = DESIGNS

    design: str = parameter("naive", "which pool they share", choices=tuple(DESIGNS))
    fault: str = parameter("leak", "what goes wrong", choices=("none", *FAULTS))
    callers: int = parameter(16, "how many callers come", low=6, high=500)
    connections: int = parameter(3, "how many connections the pool may have", low=1, high=16)
    duration: int = parameter(3, "how many callers leak, or are slow", low=1, high=16)
    pace_ms: int = parameter(0, "pause between two callers", low=0, high=500, step=10)
    seed: int = parameter(7, "chooses which caller the fault hits", low=0, high=9_999)

    async def execute(self, run: Run) -> PoolVerdict:
        """Let everybody come, fault included; the verdict says what became of each."""
        waves = _waves(self.callers, self.connections)
        planned = _planned_faults(self.seed, self.fault, waves, self.duration)
        wait_s = SHORT_WAIT_S if self.fault == "exhaustion" else WAIT_S
        limits: dict[str, Any] = {"connections": self.connections, "wait_s": wait_s}
        design = DESIGNS[self.design]
        async with (
            open_server() as server,
            PoolScenario(server, run, design, planned, waves, **limits) as scenario,
        ):
            await scenario.play(range(1, self.callers + 1), self.pace_ms)
        verdict = evaluate(run.trace, scenario.usable, self.connections)
        run.metrics.update(_metrics(verdict))
        return verdict


def _waves(callers: int, connections: int) -> list[list[int]]:
    """Who is there at the same time.

    As many as there are connections, then one at a time, then twice as many.

    Neither of the two crowds is more than a third of all.

    >>> _waves(9, 2)
    [[1, 2], [3], [4], [5], [6], [7, 8, 9]]
    """
    numbers = list(range(1, callers + 1))
    first = min(connections, callers // 3)
    last = callers - min(2 * connections, callers // 3)
    return [numbers[:first], *([number] for number in numbers[first:last]), numbers[last:]]


def _planned_faults(
    seed: int, fault: str, waves: Sequence[Sequence[int]], duration: int
) -> list[Fault]:
    """Return a fault for each caller that it hits: some of the quiet time, chosen by the seed."""
    if fault == "none":
        return []
    quiet = [wave[0] for wave in waves[1:-1]]
    many = min(duration, len(quiet)) if fault in HITS_MANY else 1
    begin = random.Random(f"{seed} {fault}").randint(0, max(0, len(quiet) - many - 1))
    return [Fault(fault, caller, 1) for caller in quiet[begin : begin + many]]


def _metrics(verdict: PoolVerdict) -> dict[str, float]:
    return {
        "done": verdict.delivered,
        "refused": sum(count for _, count in verdict.refused),
        "stalled": len(verdict.stalled),
        "wrong_replies": len(verdict.wrong),
        "usable": verdict.usable,
    }


async def callers_table(
    *, seed: int = 7, faults: Sequence[str] = ("none", *FAULTS), **parameters: Any
) -> pd.DataFrame:
    """Return every design under every fault: one row each, the same in every run."""

    def row(verdict: PoolVerdict) -> dict[str, Any]:
        return {
            "done": verdict.delivered,
            "refused": ", ".join(f"{count} {name}" for name, count in verdict.refused),
            "stalled": len(verdict.stalled),
            "wrong replies": len(verdict.wrong),
            "connections usable": f"{verdict.usable} of {verdict.connections}",
        }

    parameters |= {"seed": seed, "max_concurrent": 4}
    results = await run_designs(PoolExperiment, faults, **parameters)
    return tabulate({case: row(result.verdict) for case, result in results.items()})
