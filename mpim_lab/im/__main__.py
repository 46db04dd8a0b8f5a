"""One gateway in a process of its own: `python -m mpim_lab.im --name gw-1 --port 8801`.

When it listens it prints one line of JSON, {"name", "port", "pid"}. SIGTERM and SIGINT drain it:
its clients are sent to another gateway, what was begun ends, and it exits with 0. MPIM_REDIS_URL:
the server; `--url` is for one without a password, as everybody can read a command line.
MPIM_SECRET: what tokens are signed with, the same for all gateways. MPIM_DATABASE_URL: the offline
store and the groups, the same for all, too (SQLite in memory is for one alone).
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from mpim_lab.errors import InvalidParameter, MpimError
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.system import ImSystem


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal. Return the exit status."""
    parser = argparse.ArgumentParser(prog="mpim_lab.im", description="One gateway of MPIM.")
    parser.add_argument(
        "--url",
        default=os.environ.get("MPIM_REDIS_URL", "").strip(),
        help="the Redis or Valkey server",
    )
    parser.add_argument("--name", default="gw-1", help="no other gateway's name")
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0: any that is free")
    parser.add_argument("--prefix", default="", help="put before every key and channel")
    parser.add_argument(
        "--rate",
        type=float,
        default=100.0,
        help="frames a client may send a second; twice as many at once",
    )
    parser.add_argument(
        "--until-eof",
        action="store_true",
        help="end, too, when standard input does: its parent is gone",
    )
    parser.add_argument(
        "--allow-login", action="store_true", help="hand out tokens by name alone: for the lab"
    )
    try:
        return uvloop.run(_serve(parser.parse_args(argv)))
    except (MpimError, OSError) as error:
        print(f"mpim_lab: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


async def _serve(options: argparse.Namespace) -> int:
    secret = os.environ.get("MPIM_SECRET", "").strip()
    if not secret:
        raise InvalidParameter(
            "MPIM_SECRET is not set: all gateways of a system sign tokens with the same secret"
        )
    # Ten thousand clients are a million long-lived objects; looking through them all at every 700th
    # new one took a third of the time. What a message makes is freed by counting references; cycles
    # are few and can wait.
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, ended.set)
    if options.until_eof:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _end_at_eof, ended)
    async with ImSystem(
        options.url,
        gateways=0,
        prefix=options.prefix,
        secret=secret,
        allow_login=options.allow_login,
        gateway_config=GatewayConfig(rate_per_s=options.rate, burst=int(2 * options.rate)),
    ) as mpim:
        gateway = await mpim.start(options.name, port=options.port)
        print(
            json.dumps({"name": gateway.name, "port": gateway.port, "pid": os.getpid()}), flush=True
        )
        await ended.wait()
    return 0


def _end_at_eof(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1_024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        ended.set()


if __name__ == "__main__":
    sys.exit(main())
