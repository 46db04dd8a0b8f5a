"""`mpim-lab bench`: run a bench or all of them; tables, a file as JSON, and a page of pictures."""

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpim_lab.bench.cases import FULL, FULL_BATCHING, QUICK, QUICK_BATCHING
from mpim_lab.bench.comparison import bench_batching, bench_pubsub, bench_streams
from mpim_lab.bench.gateway.bench import bench_gateway
from mpim_lab.bench.gateway.cases import FULL_GATEWAY, QUICK_GATEWAY
from mpim_lab.bench.growth import FULL_GROWTH, QUICK_GROWTH, bench_growth
from mpim_lab.bench.live import FULL_LIVE, QUICK_LIVE, bench_live
from mpim_lab.bench.report.page import page_of
from mpim_lab.bench.report.table import report_text
from mpim_lab.bench.rounds import reason_of
from mpim_lab.bench.rows import EVERY_CASE, OURS, Row, rounded
from mpim_lab.bench.sweeps import (
    FULL_COMPRESSION,
    FULL_POOL,
    QUICK_COMPRESSION,
    QUICK_POOL,
    bench_compression,
    bench_pool,
)
from mpim_lab.errors import MpimError

Report = dict[str, Any]


class Bench(NamedTuple):
    """What one word after `mpim-lab bench` does: `run(schedule, tell)`."""

    told: str
    run: Callable[..., Awaitable[Report]]
    full: Any
    quick: Any


BENCHES = {
    "pubsub": Bench(
        "publish to receive: ours, redis-py, coredis, valkey-glide, and the limit",
        bench_pubsub,
        FULL,
        QUICK,
    ),
    "streams": Bench(
        "add, consume, acknowledge: ours, redis-py, FastStream, taskiq, and each guarantee's cost",
        bench_streams,
        FULL,
        QUICK,
    ),
    "batching": Bench(
        "many messages in a frame: beside single ones and redis-py's pipelines",
        bench_batching,
        FULL_BATCHING,
        QUICK_BATCHING,
    ),
    "compression": Bench(
        "bytes saved against CPU spent, by algorithm and size",
        bench_compression,
        FULL_COMPRESSION,
        QUICK_COMPRESSION,
    ),
    "pool": Bench("callers by five ways to a connection", bench_pool, FULL_POOL, QUICK_POOL),
    "growth": Bench(
        "message size, channels, subscribers, tasks: throughput and memory, each as a curve",
        bench_growth,
        FULL_GROWTH,
        QUICK_GROWTH,
    ),
    "gateway": Bench(
        "10,000 connected clients: ours beside python-socketio and socket.io on Node",
        bench_gateway,
        FULL_GATEWAY,
        QUICK_GATEWAY,
    ),
    "live": Bench(
        "what watching costs: the same load with and without live charts",
        bench_live,
        FULL_LIVE,
        QUICK_LIVE,
    ),
}
ALL = "all"
MEASURED_IN_ALL = tuple(name for name in BENCHES if name not in ("gateway", "live"))


def run_bench_command(argv: Sequence[str]) -> int:
    """Run `mpim-lab bench ARGV`; gives the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = asyncio.run(_report(arguments))
    except MpimError as error:
        print(f"mpim-lab bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mpim-lab bench: interrupted", file=sys.stderr)
        return 130
    print(report_text(report))
    try:
        _keep(report, arguments)
    except OSError as error:  # it could be written when the run began
        print(
            f"mpim-lab bench: {error.filename or 'the file'} cannot be written: {error.strerror}",
            file=sys.stderr,
        )
        return 1
    return 0


async def _report(arguments: argparse.Namespace) -> Report:
    if arguments.bench == ALL:
        return await bench_all(arguments.quick, arguments.rounds)
    return await _run(arguments.bench, arguments.quick, arguments.rounds)


async def _run(name: str, quick: bool, rounds: int | None) -> Report:
    bench = BENCHES[name]
    schedule = bench.quick if quick else bench.full
    schedule = dataclasses.replace(schedule, rounds=rounds or schedule.rounds)
    return await bench.run(schedule, _tell)


async def bench_all(quick: bool, rounds: int | None = None) -> Report:
    """Run one after another. The report has the rows of all, four digits each.

    The machine is described as the first bench found it. A bench that fails has one row with the
    reason, and the others go on; when all of them fail, the last error is raised.
    """
    reports: list[Report] = []
    rows: list[Row] = []
    for name in MEASURED_IN_ALL:
        _tell(f"bench {name}")
        try:
            reports.append(await _run(name, quick, rounds))
        except MpimError as error:
            if name == MEASURED_IN_ALL[-1] and not reports:
                raise
            reason = reason_of(error)
            rows.append({"bench": name, "who": OURS, "case": EVERY_CASE, "reason": reason})
        else:
            rows += reports[-1]["rows"]
    return {"machine": reports[0]["machine"], "rows": rounded(rows)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mpim-lab bench", description="How fast, beside the peers, on this machine."
    )
    benches = parser.add_subparsers(dest="bench", required=True)
    told = {name: bench.told for name, bench in BENCHES.items()}
    told[ALL] = "all of them but gateway and live, as one file and one page of pictures"
    for name, help_text in told.items():
        bench = benches.add_parser(name, help=help_text, description=help_text)
        bench.add_argument(
            "--quick", action="store_true", help="a minute a bench: fewer cases, shorter, noisier"
        )
        bench.add_argument(
            "--rounds", type=_at_least_one, help="how often each case is run; the median counts"
        )
        bench.add_argument("--json", type=_writable, metavar="FILE", help="write machine and rows")
        if name != "live":
            bench.add_argument(
                "--page" if name == ALL else "--picture",
                dest="page",
                type=_writable,
                metavar="FILE.html",
                help="write the rows as a page of pictures",
            )
    parser.set_defaults(page=None)
    return parser


def _keep(report: Report, arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        arguments.json.write_text(_as_json(report), encoding="utf-8")
    # With plotly's script inside, 5 MB: the file can be opened anywhere, without a network.
    if arguments.page is not None:
        arguments.page.write_text(page_of(report), encoding="utf-8")


def _as_json(report: Report) -> str:
    """A line a row: a file that can be read, and compared with an older one."""
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in report["rows"])
    machine = json.dumps(report["machine"], ensure_ascii=False, indent=2).replace("\n", "\n  ")
    return f'{{\n  "machine": {machine},\n  "rows": [\n{rows}\n  ]\n}}\n'


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _writable(name: str) -> Path:
    """Refuse a file that cannot be written before the run, not after it."""
    path = Path(name)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a directory")
    is_new = not path.exists()
    try:
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _at_least_one(number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{number!r} is not a number of at least 1")
    return int(number)
