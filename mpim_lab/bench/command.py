"""`mpim-lab bench`: run a comparison, show it as a table, keep it as JSON and as a picture."""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpim_lab.bench.cases import FULL, QUICK, Schedule
from mpim_lab.bench.live import bench_live
from mpim_lab.bench.picture import picture_of
from mpim_lab.bench.pubsub import bench_pubsub
from mpim_lab.bench.rounds import Sample
from mpim_lab.bench.streams import bench_streams
from mpim_lab.bench.table import live_table_of, table_of
from mpim_lab.errors import MpimError


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
    print((live_table_of if arguments.bench == "live" else table_of)(report["rows"], report["machine"]))
    _keep(report, arguments)
    return 0


async def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    schedule = _schedule(arguments)
    if arguments.bench == "live":
        return await bench_live(schedule.rounds, schedule.seconds * 3)
    if arguments.bench == "streams":
        return await bench_streams(schedule, _show_progress)
    return await bench_pubsub(schedule, _show_progress)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mpim-lab bench", description="How fast, beside the peers, on this machine.")
    benches = parser.add_subparsers(dest="bench", required=True)
    pubsub = benches.add_parser(
        "pubsub", help="publish to receive: ours, redis-py, coredis, valkey-glide, and the limit"
    )
    streams = benches.add_parser(
        "streams", help="add, consume, acknowledge: ours, redis-py, FastStream, taskiq, and what a guarantee costs"
    )
    live = benches.add_parser("live", help="what watching costs: the same load with and without live charts")
    for bench in (pubsub, streams, live):
        bench.add_argument("--quick", action="store_true", help="a minute: fewer cases, shorter, and noisier")
        bench.add_argument("--rounds", type=_at_least_one, help="how often each case is run; the median counts")
        bench.add_argument("--json", type=_writable, metavar="FILE", help="write machine and rows")
    for bench in (pubsub, streams):
        bench.add_argument("--picture", type=_writable, metavar="FILE.html", help="write the rows as a picture")
    return parser


def _schedule(arguments: argparse.Namespace) -> Schedule:
    schedule = QUICK if arguments.quick else FULL
    return dataclasses.replace(schedule, rounds=arguments.rounds or schedule.rounds)


def _keep(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.bench != "live" and arguments.picture is not None:
        # With plotly's script inside, 5 MB: the file can be opened anywhere, without a network.
        picture_of(report).write_html(arguments.picture, include_plotlyjs=True, div_id="bench")


def _show_progress(sample: Sample) -> None:
    rate = sample.messages_per_s
    found = f"{rate:,.0f} msg/s" if rate is not None else sample.reason
    print(f"round {sample.round} · {sample.case} · {sample.who}: {found}", file=sys.stderr, flush=True)


def _writable(name: str) -> Path:
    """Refuse a file that cannot be written before the run, not after it."""
    path = Path(name)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a directory")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written")
    return path


def _at_least_one(number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{number!r} is not a number of at least 1")
    return int(number)
