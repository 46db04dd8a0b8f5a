"""Soak: many random schedules of faults, played on real servers and judged by the ledger.

The correct design fails in none.

`python -m mpim_lab.soak.runner --schedules 1000`; `--seed 17` plays that one schedule again and
shows its trace.
"""

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mpim_lab.chapters.shared.designs import Design
from mpim_lab.chapters.shared.experiment import summarize
from mpim_lab.events import EventKind
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.trace.checker import Verdict
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.soak.designs import DESIGNS
from mpim_lab.soak.scenario import SoakScenario
from mpim_lab.soak.schedule import KINDS, Schedule
from mpim_lab.terminal import first_error, run_main

BLOCK = 100  # so many schedules share a server
CLEAN = "✓"


class ScheduleResult(NamedTuple):
    """Result of one schedule.

    Its verdict, the injected faults, how many sends failed for good, and the trace.
    """

    schedule: Schedule
    verdict: Verdict
    injected: Counter[str]
    given_up: int
    trace: Trace

    @property
    def is_clean(self) -> bool:
        """Nothing lost, twice, out of order, stalled or given up."""
        return summarize(self.verdict) == CLEAN

    @property
    def conclusive(self) -> frozenset[str]:
        """The faults whose end is certain.

        The senders heard that the messages that were hit are in, so that they are judged.

        None, if the server was killed (that may end a fault early) or a worker died of an error of
        its own (a machine that stood still is a fault that nobody planned).
        """
        if self.injected["server kill"] or any(
            not event.message_id for event in self.trace.by_kind(EventKind.FAILED)
        ):
            return frozenset()
        added = Counter(event.message_id for event in self.trace.by_kind(EventKind.ADDED))
        unsure = {
            fault.kind
            for fault in self.schedule.faults
            if added[fault.message] < (2 if fault.kind == "sent twice" else 1)
        }
        return frozenset(+self.injected) - unsure


@dataclass
class SoakReport:
    """Report of many schedules.

    `failures`: verdicts by seed; `conclusive`: which faults' end is certain, by seed.
    """

    design: str
    schedules: int = 0
    messages: int = 0
    given_up: int = 0
    seconds: float = 0.0
    injected: Counter[str] = field(default_factory=Counter)
    conclusive: dict[int, frozenset[str]] = field(default_factory=dict)
    failures: dict[int, Verdict] = field(default_factory=dict)

    def add(self, outcome: ScheduleResult) -> None:
        """Count one schedule."""
        self.schedules += 1
        self.messages += len(outcome.schedule.messages)
        self.given_up += outcome.given_up
        self.injected += outcome.injected
        self.conclusive[outcome.schedule.seed] = outcome.conclusive
        if not outcome.is_clean:
            self.failures[outcome.schedule.seed] = outcome.verdict

    def __str__(self) -> str:
        rows = {
            "design": self.design,
            "schedules": f"{self.schedules:,}",
            "messages": f"{self.messages:,}",
        }
        rows |= {
            "sends that failed for good": f"{self.given_up:,}",
            "injected faults": f"{self.injected.total():,}",
        }
        rows |= {f"  {kind}": f"{self.injected[kind]:,}" for kind in (*KINDS, "server kill")}
        rows |= {
            "schedules that failed": f"{len(self.failures):,}",
            "seconds": f"{self.seconds:,.0f}",
        }
        lines = [f"{name:<30}{value:>14}" for name, value in rows.items()]
        return "\n".join(
            lines
            + [
                f"seed {seed}: {summarize(verdict)}"
                for seed, verdict in sorted(self.failures.items())
            ]
        )


async def run_schedule(
    seed: int,
    design: str | Design = "correct",
    *,
    server: EmbeddedServer | ExternalServer | None = None,
) -> ScheduleResult:
    """Run one seed's schedule, on `server`, or on a server of its own."""
    schedule, trace = Schedule.from_seed(seed), Trace(sample_above_per_s=None)
    chosen = DESIGNS[design] if isinstance(design, str) else design
    own = (
        open_server(persistence="always")
        if server is None or schedule.kills_server
        else contextlib.nullcontext(server)
    )
    try:
        async with own as running, SoakScenario(running, schedule, chosen, trace) as stage:
            verdict = await stage.run()
    except Exception as error:
        error.add_note(str(schedule))
        raise
    told = {event.message_id: event.outcome for event in trace.by_kind(EventKind.OUTCOME)}
    return ScheduleResult(
        schedule, verdict, stage.injected, sum(detail != "added" for detail in told.values()), trace
    )


async def soak(
    schedules: int,
    *,
    first_seed: int = 1,
    design: str = "correct",
    at_once: int = 4,
    on_progress: Callable[[SoakReport], None] | None = None,
) -> SoakReport:
    """Run the schedules of seeds `first_seed` and following, `at_once` of them at the same time."""
    check_bounds(1, 10_000_000, schedules=schedules)
    check_bounds(1, 1_000, at_once=at_once)
    result, began, places = SoakReport(design), time.monotonic(), asyncio.Semaphore(at_once)

    async def one(seed: int, server: EmbeddedServer | ExternalServer) -> None:
        async with places:
            result.add(await run_schedule(seed, design, server=server))
        result.seconds = time.monotonic() - began
        if on_progress is not None:
            on_progress(result)

    end = first_seed + schedules
    for first in range(first_seed, end, BLOCK):
        try:
            async with open_server() as server, asyncio.TaskGroup() as group:
                for seed in range(first, min(first + BLOCK, end)):
                    group.create_task(one(seed, server))
        except ExceptionGroup as errors:  # the first that failed has ended the others
            raise first_error(errors) from errors
    return result


def _print_progress(result: SoakReport) -> None:
    if result.schedules % 50 == 0:
        counts = f"{result.schedules:,} schedules, {result.injected.total():,} faults, {len(result.failures)} failed"
        print(f"{result.seconds:6.0f} s  {counts}", flush=True)


def _replay(seed: int, design: str) -> ScheduleResult:
    outcome = asyncio.run(run_schedule(seed, design))
    print(outcome.trace.to_pandas().to_string())
    print(outcome.schedule, dict(outcome.injected), outcome.verdict, sep="\n")
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; gives the exit status: 1 if a schedule failed that must not."""
    parser = argparse.ArgumentParser(
        prog="python -m mpim_lab.soak.runner", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--design", choices=tuple(DESIGNS), default="correct")
    parser.add_argument("--at-once", type=int, default=8, help="schedules at the same time")
    parser.add_argument("--seed", type=int, help="play this one again and show its trace")
    given = parser.parse_args(argv)
    if given.seed is not None:
        failed = not _replay(given.seed, given.design).is_clean
    else:
        options = {"first_seed": given.first_seed, "design": given.design, "at_once": given.at_once}
        result = asyncio.run(soak(given.schedules, **options, on_progress=_print_progress))
        print(result)
        failed = bool(result.failures)
    return int(failed and given.design == "correct")


if __name__ == "__main__":
    logging.getLogger("mpim_lab").setLevel(
        logging.CRITICAL
    )  # lines that break are what this is about
    sys.exit(run_main(main))
