"""API soak: random schedules over the public API on a real server.

A failing one prints its seed and a minimal schedule.

`python -m mpim_lab.soak.api.campaign --from 1 --count 20000` plays some 20,000 steps, beginning
with seed 1; it says with which seed to go on. `--seed 17` plays that one again, and `--steps
listen:5 publish:17 leave:3` these steps.
"""

import argparse
import asyncio
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.soak.api.actions import weights
from mpim_lab.soak.api.runner import Played, forget, play
from mpim_lab.soak.api.schedule import Step, parse_steps, schedule_of, shrunk
from mpim_lab.terminal import run_main

SEEDS_AT_ONCE = 5
SHRINK_S = 60.0


@dataclass(frozen=True)
class Options:
    """What is played, and where."""

    server: str | None = None
    steps: int = 40
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    shrink: int = 80

    def schedule(self, seed: int) -> list[Step]:
        """The schedule of one seed."""
        return schedule_of(seed, self.steps, weights(self.only, self.without))


@dataclass
class Result:
    """What some seeds gave: steps that were played, and a report for each seed that failed."""

    steps: int = 0
    schedules: int = 0
    reports: dict[int, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Result") -> None:
        """Put two together."""
        self.steps += other.steps
        self.schedules += other.schedules
        self.reports |= other.reports
        self.kinds += other.kinds


class Host:
    """The server on which schedules are played one after the other.

    It syncs every write, as it is going to be killed.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        forget()
        self.server = EmbeddedServer(options.server, persistence="always")

    def play(self, seed: int, steps: Sequence[Step]) -> Played:
        """Play one schedule."""
        return play(self.server, seed, steps, self.options.without)

    def stop(self) -> None:
        """Stop the server."""
        asyncio.run(self.server.stop())

    def report(self, seed: int, steps: list[Step], played: Played) -> str:
        """Shrink a failing schedule and tell it."""
        kind, until = played.kind, time.monotonic() + SHRINK_S

        def fails(candidate: list[Step]) -> bool:
            return time.monotonic() < until and self.play(seed, candidate).kind == kind

        minimal = shrunk(played.steps, fails, self.options.shrink) if self.options.shrink else steps
        told = self.play(seed, minimal)
        if told.kind != kind:  # it depends on luck: tell the whole
            minimal, told = steps, played
        return "\n".join(
            [
                f"FAILED seed {seed}: {told.violations[0]}",
                *(f"    {line}" for line in told.said),
                f"  again: --seed {seed}, or --steps {' '.join(map(str, minimal))}",
            ]
        )


def play_seeds(seeds: Sequence[int], options: Options) -> Result:
    """Play the schedules of some seeds on a server of their own."""
    logging.getLogger("mpim_lab").setLevel(logging.CRITICAL + 1)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    host, result = Host(options), Result()
    try:
        for seed in seeds:
            steps = options.schedule(seed)
            played = host.play(seed, steps)
            result.steps += len(played.steps)
            result.schedules += 1
            if played.violations:
                result.kinds[played.kind] += 1
                result.reports[seed] = host.report(seed, steps, played)
    finally:
        host.stop()
    return result


def soak(
    first: int, count: int, options: Options, processes: int = 2
) -> Iterator[tuple[int, Result]]:
    """Play seeds from `first` on until `count` steps are played.

    Gives after each part the next seed and the result.
    """
    total, seed = Result(), first
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running: set[Future[Result]] = set()
        while running or total.steps < count:
            while (
                len(running) < processes
                and total.steps + len(running) * SEEDS_AT_ONCE * options.steps < count
            ):
                running.add(pool.submit(play_seeds, range(seed, seed + SEEDS_AT_ONCE), options))
                seed += SEEDS_AT_ONCE
            if not running:
                running.add(pool.submit(play_seeds, [seed], options))
                seed += 1
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for part in done:
                total.add(part.result())
            yield seed, total


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mpim_lab.soak.api.campaign", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=20_000, help="how many steps, at least")
    parser.add_argument("--server", help="another server's program, such as redis-server")
    parser.add_argument("--steps-per-schedule", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=[], help="these areas or actions")
    parser.add_argument(
        "--without", nargs="*", default=[], help="not these areas, actions or checks"
    )
    parser.add_argument(
        "--shrink",
        type=int,
        default=80,
        help="so many runs to make a failing schedule short; 0: none",
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="play this one again")
    parser.add_argument("--steps", nargs="*", help="play these steps")
    parser.add_argument(
        "--stop-after", type=int, default=10, help="so many failed schedules are enough"
    )
    return parser


def _replay(seed: int, steps: list[Step], options: Options) -> bool:
    host = Host(options)
    try:
        played: Played = host.play(seed, steps)
    finally:
        host.stop()
    print(*played.said, *played.violations, f"{len(played.steps)} steps", sep="\n")
    return bool(played.violations)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; gives the exit status: 1 if a schedule failed."""
    given = _parser().parse_args(argv)
    check_bounds(1, 64, processes=given.processes)
    check_bounds(1, 100_000_000, count=given.count)
    check_bounds(1, 100_000, steps_per_schedule=given.steps_per_schedule)
    only, without = tuple(given.only), tuple(given.without)
    options = Options(given.server, given.steps_per_schedule, only, without, given.shrink)
    if given.steps is not None or given.seed is not None:
        seed = given.seed or 0
        return int(
            _replay(
                seed, parse_steps(given.steps) if given.steps else options.schedule(seed), options
            )
        )
    began, reported, last = time.monotonic(), 0, (given.first, Result())
    for last in soak(given.first, given.count, options, given.processes):
        result = last[1]
        for report in list(result.reports.values())[reported:]:
            print(report, flush=True)
        reported = len(result.reports)
        seconds = time.monotonic() - began
        print(
            f"{seconds:6.0f} s  {result.steps:,} steps, {result.schedules:,} schedules, {reported} failed",
            flush=True,
        )
        if reported >= given.stop_after:
            break
    print(f"next seed: {last[0]}; failures: {dict(last[1].kinds) or 'none'}")
    return int(bool(last[1].reports))


if __name__ == "__main__":
    sys.exit(run_main(main))
