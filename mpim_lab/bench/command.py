"""`mpim-lab bench`: run a bench or all of them, show tables, keep them as JSON and as a page of pictures."""

import argparse
import asyncio
import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpim_lab.bench.batching import bench_batching
from mpim_lab.bench.cases import (
    FULL,
    FULL_BATCHING,
    FULL_SWEEP,
    QUICK,
    QUICK_BATCHING,
    QUICK_SWEEP,
    Schedule,
)
from mpim_lab.bench.compression import bench_compression
from mpim_lab.bench.everything import EVERY_CASE, bench_all
from mpim_lab.bench.gateway.bench import bench_gateway
from mpim_lab.bench.gateway.cases import FULL_GATEWAY, QUICK_GATEWAY
from mpim_lab.bench.growth import FULL_GROWTH, QUICK_GROWTH, bench_growth
from mpim_lab.bench.live import bench_live
from mpim_lab.bench.pool import bench_pool
from mpim_lab.bench.pubsub import bench_pubsub
from mpim_lab.bench.report.gateway_picture import gateway_page_of
from mpim_lab.bench.report.gateway_table import gateway_table_of
from mpim_lab.bench.report.page import page_of
from mpim_lab.bench.report.sweep_tables import sweep_table_of
from mpim_lab.bench.report.table import live_table_of, table_of
from mpim_lab.bench.rounds import Sample
from mpim_lab.bench.rows import Row
from mpim_lab.bench.streams import bench_streams
from mpim_lab.errors import MpimError

TOLD: dict[str, str] = {
    "pubsub": "publish to receive: ours, redis-py, coredis, valkey-glide, and the limit",
    "streams": "add, consume, acknowledge: ours, redis-py, FastStream, taskiq, and what a guarantee costs",
    "batching": "many messages in a frame: beside single ones and redis-py's pipelines",
    "compression": "bytes saved against CPU spent, by algorithm and size",
    "pool": "callers by five ways to a connection",
    "growth": "message size, channels, subscribers, tasks: throughput and memory, each as a curve",
    "gateway": "10,000 connected clients: ours beside python-socketio and socket.io on Node",
    "live": "what watching costs: the same load with and without live charts",
    "all": "all of them but gateway and live, as one file and one page of pictures",
}
COMPARED = ("pubsub", "streams", "batching")
MEASURED_IN_ALL = (*COMPARED, "compression", "pool", "growth")


def run_bench_command(argv: Sequence[str]) -> int:
    """Run `mpim-lab bench ARGV`; gives the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = asyncio.run(_report(arguments.bench, arguments))
    except MpimError as error:
        print(f"mpim-lab bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mpim-lab bench: interrupted", file=sys.stderr)
        return 130
    print(_text_of(report, arguments.bench))
    try:
        _keep(report, arguments)
    except OSError as error:  # it could be written when the run began
        print(
            f"mpim-lab bench: {error.filename or 'the file'} cannot be written: {error.strerror}",
            file=sys.stderr,
        )
        return 1
    return 0


async def _report(bench: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if bench == "all":
        parts = {name: functools.partial(_report, name, arguments) for name in MEASURED_IN_ALL}
        return await bench_all(parts, _tell)
    quick, rounds = arguments.quick, arguments.rounds
    if bench == "growth":
        growth = QUICK_GROWTH if quick else FULL_GROWTH
        return await bench_growth(
            dataclasses.replace(growth, rounds=rounds or growth.rounds), _tell
        )
    if bench == "gateway":
        gateway = QUICK_GATEWAY if quick else FULL_GATEWAY
        return await bench_gateway(
            dataclasses.replace(gateway, rounds=rounds or gateway.rounds), _tell
        )
    if bench in ("compression", "pool"):
        sweep = _schedule(QUICK_SWEEP if quick else FULL_SWEEP, rounds)
        if bench == "compression":
            return await bench_compression(sweep.rounds, _tell)
        return await bench_pool(sweep.rounds, sweep.seconds, _tell)
    if bench == "batching":
        return await bench_batching(
            _schedule(QUICK_BATCHING if quick else FULL_BATCHING, rounds), _show_progress
        )
    schedule = _schedule(QUICK if quick else FULL, rounds)
    if bench == "live":
        return await bench_live(schedule.rounds, schedule.seconds * 3)
    return await (bench_streams if bench == "streams" else bench_pubsub)(schedule, _show_progress)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mpim-lab bench", description="How fast, beside the peers, on this machine."
    )
    benches = parser.add_subparsers(dest="bench", required=True)
    for name, told in TOLD.items():
        bench = benches.add_parser(name, help=told, description=told)
        bench.add_argument(
            "--quick", action="store_true", help="a minute a bench: fewer cases, shorter, noisier"
        )
        bench.add_argument(
            "--rounds", type=_at_least_one, help="how often each case is run; the median counts"
        )
        bench.add_argument("--json", type=_writable, metavar="FILE", help="write machine and rows")
        if name == "all":
            bench.add_argument(
                "--page", type=_writable, metavar="FILE.html", help="write all pictures as one page"
            )
        elif name != "live":
            bench.add_argument(
                "--picture", type=_writable, metavar="FILE.html", help="write the rows as a picture"
            )
    return parser


def _schedule(schedule: Schedule, rounds: int | None) -> Schedule:
    return dataclasses.replace(schedule, rounds=rounds or schedule.rounds)


def _text_of(report: dict[str, Any], bench: str) -> str:
    """The report's tables; those of `all` one after another."""
    rows, machine = report["rows"], report["machine"]
    if bench == "live":
        return live_table_of(rows, machine)
    if bench == "gateway":
        return gateway_table_of(rows, machine)
    if bench == "all":
        parts = {name: [row for row in rows if row["bench"] == name] for name in MEASURED_IN_ALL}
        return "\n\n".join(
            f"{name}\n\n{_part_of(name, part, machine)}" for name, part in parts.items()
        )
    return _part_of(bench, rows, machine)


def _part_of(bench: str, rows: Sequence[Row], machine: dict[str, Any]) -> str:
    if all(row["case"] == EVERY_CASE for row in rows):
        return "\n".join(f"not measured: {row['reason']}" for row in rows)
    return (table_of if bench in COMPARED else sweep_table_of)(rows, machine)


def _keep(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        arguments.json.write_text(_as_json(report), encoding="utf-8")
    # With plotly's script inside, 5 MB: the file can be opened anywhere, without a network.
    if (
        page := getattr(arguments, "page", None) or getattr(arguments, "picture", None)
    ) is not None:
        draw = gateway_page_of if arguments.bench == "gateway" else page_of
        page.write_text(draw(report), encoding="utf-8")


def _as_json(report: dict[str, Any]) -> str:
    """A line a row: a file that can be read, and compared with an older one."""
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in report["rows"])
    machine = json.dumps(report["machine"], ensure_ascii=False, indent=2).replace("\n", "\n  ")
    return f'{{\n  "machine": {machine},\n  "rows": [\n{rows}\n  ]\n}}\n'


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show_progress(sample: Sample) -> None:
    rate = sample.messages_per_s
    found = f"{rate:,.0f} msg/s" if rate is not None else sample.reason
    _tell(f"round {sample.round} · {sample.case} · {sample.who}: {found}")


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
