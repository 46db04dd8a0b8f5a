"""What the experiments of all chapters share: parameters, the run, and tables of designs."""

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from mpim_lab.chapters.shared.scenario import Scenario, Server
from mpim_lab.lab.exercise.experiment import Experiment, Result, Run, parameter
from mpim_lab.lab.faults.injector import Fault, schedule_faults
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict
from mpim_lab.lab.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class ScenarioExperiment(Experiment):
    """An experiment that plays a scenario: messages in turns, and a fault that hits some.

    A chapter names its designs and faults, opens its scenario, and judges the trace.
    """

    designs: ClassVar[Mapping[str, Any]]

    design: str = parameter("", "which design is run")
    fault: str = parameter("none", "what goes wrong")
    messages: int = parameter(12, "how many messages alice sends", low=6, high=1_000)
    duration: int = parameter(
        3, "how many messages come while something is held back", low=1, high=100
    )
    pace_ms: int = parameter(0, "pause between two messages", low=0, high=500, step=10)
    seed: int = parameter(
        7, "chooses which message the fault hits, and the texts", low=0, high=9_999
    )

    @abstractmethod
    def scenario(self, server: Server, run: Run) -> Scenario:
        """Return the scenario of this run."""

    @abstractmethod
    def judge(self, run: Run, scenario: Any) -> Verdict:
        """Return the verdict on a run whose scenario was played; fill its metrics."""

    @property
    def selected_design(self) -> Any:
        """Return the named design."""
        return self.designs[self.design]

    def planned(self) -> list[Fault]:
        """Return the faults of the run."""
        if self.fault == "none":
            return []
        return schedule_faults(self.seed, self.fault, self.messages, self.duration)

    def payloads(self) -> Iterable[Any]:
        """Return what is sent."""
        return Workload(self.seed, self.messages)

    async def execute(self, run: Run) -> Verdict:
        """Play the scenario, fault included, and judge it."""
        async with (
            open_server(persistence=getattr(self, "persistence", "none")) as server,
            self.scenario(server, run) as scenario,
        ):
            await scenario.play(self.payloads(), self.pace_ms)
        return self.judge(run, scenario)


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


# Tables: the same in every run


async def run_designs(
    kind: Any, faults: Iterable[str], *, max_concurrent: int = 1, **parameters: Any
) -> dict[tuple[str, str], Any]:
    """Run every design under every fault; return the results by fault and design."""
    cases = [(fault, design) for fault in faults for design in kind.designs]
    runs = [kind(fault=fault, design=design, **parameters) for fault, design in cases]
    results = await run_concurrently(runs, max_concurrent=max_concurrent)
    return dict(zip(cases, results, strict=True))


def tabulate(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row for each fault and design."""
    return pd.DataFrame(
        [{"fault": fault, "design": design, **row} for (fault, design), row in rows.items()]
    ).set_index(["fault", "design"])


def count_messages(
    results: Mapping[tuple[str, str], Result], columns: Mapping[str, str]
) -> pd.DataFrame:
    """Return how many messages are in these fields of each verdict (column → field)."""

    def row(verdict: Verdict) -> dict[str, Any]:
        counts = {column: len(getattr(verdict, name)) for column, name in columns.items()}
        return counts | {"observed": verdict.semantics}

    return tabulate({case: row(result.verdict) for case, result in results.items()})


def summarize(verdict: Verdict, flawless: str = "✓") -> str:
    """Return a verdict in a few words, the same in every run.

    >>> summarize(Verdict(sent=3, delivered=3))
    '✓'
    >>> summarize(Verdict(sent=3, delivered=2, lost=("m2",), reordered=("m3",)))
    '1 lost, 1 out of order'
    """
    found = {"lost": verdict.lost, "twice": verdict.duplicated, "out of order": verdict.reordered}
    found |= {"stalled": verdict.stalled, "dead letter": verdict.dead_lettered}
    return ", ".join(f"{len(ids)} {name}" for name, ids in found.items() if ids) or flawless


async def compare_designs(
    kind: Any,
    *,
    seed: int = 7,
    faults: Sequence[str] = (),
    flawless: str = "✓",
    max_concurrent: int = 4,
    **parameters: Any,
) -> pd.DataFrame:
    """Return a row for each fault, a column for each design: the summary of its verdict."""
    faults = faults or kind.faults
    parameters |= {"seed": seed, "max_concurrent": max_concurrent}
    results = await run_designs(kind, faults, **parameters)
    rows = {
        fault: {
            design: summarize(results[fault, design].verdict, flawless) for design in kind.designs
        }
        for fault in faults
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("fault")
