"""API soak: random schedules over the public API on a real server.

A failing one prints its seed and a minimal schedule.

`python -m mpim_lab.soak.api.campaign --from 1 --count 20000` plays some 20,000 steps, beginning
with seed 1; it says with which seed to go on. `--seed 17` plays that one again, and `--steps
listen:5 publish:17 leave:3` these steps.
"""

import argparse
import asyncio
import itertools
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
        while total.steps < count:
            begin, seed = seed, seed + SEEDS_AT_ONCE * processes
            parts = [range(n, n + SEEDS_AT_ONCE) for n in range(begin, seed, SEEDS_AT_ONCE)]
            for part in pool.map(play_seeds, parts, itertools.repeat(options)):
                total.add(part)
                yield seed, total


# option → its default, and what it is for
_NUMBERS = {
    "--from": (1, "the first seed"),
    "--count": (20_000, "how many steps, at least"),
    "--steps-per-schedule": (40, "how long a schedule is"),
    "--shrink": (80, "so many runs to make a failing schedule short; 0: none"),
    "--processes": (2, "how many play at the same time"),
    "--stop-after": (10, "so many failed schedules are enough"),
    "--seed": (None, "play this one again"),
}
_WORDS = {
    "--only": "these areas or actions",
    "--without": "not these areas, actions or checks",
    "--steps": "play these steps",
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mpim_lab.soak.api.campaign", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--server", help="another server's program, such as redis-server")
    for name, (default, meaning) in _NUMBERS.items():
        parser.add_argument(name, type=int, default=default, help=meaning)
    for name, meaning in _WORDS.items():
        parser.add_argument(name, nargs="*", default=[], help=meaning)
    return parser.parse_args(argv)


def _replay(seed: int, steps: list[Step], options: Options) -> bool:
    host = Host(options)
    try:
        played = host.play(seed, steps)
    finally:
        host.stop()
    print(*played.said, *played.violations, f"{len(played.steps)} steps", sep="\n")
    return bool(played.violations)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status: 1 if a schedule failed."""
    given = _parse(argv)
    check_bounds(1, 64, processes=given.processes)
    check_bounds(1, 100_000_000, count=given.count)
    check_bounds(1, 100_000, steps_per_schedule=given.steps_per_schedule)
    only, without = tuple(given.only), tuple(given.without)
    options = Options(given.server, given.steps_per_schedule, only, without, given.shrink)
    if given.steps or given.seed is not None:
        seed = given.seed or 0
        return _replay(seed, parse_steps(given.steps) or options.schedule(seed), options)
    began, reported = time.monotonic(), 0
    seed, result = getattr(given, "from"), Result()
    for next_seed, result in soak(seed, given.count, options, given.processes):
        for report in list(result.reports.values())[reported:]:
            print(report, flush=True)
        seed, reported = next_seed, len(result.reports)
        counts = f"{result.steps:,} steps, {result.schedules:,} schedules, {reported} failed"
        print(f"{time.monotonic() - began:6.0f} s  {counts}", flush=True)
        if reported >= given.stop_after:
            break
    print(f"next seed: {seed}; failures: {dict(result.kinds) or 'none'}")
    return bool(reported)


if __name__ == "__main__":
    sys.exit(run_main(main))
