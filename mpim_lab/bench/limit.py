"""The limit: redis-benchmark, a C program that only writes and reads: the server's own speed."""

import asyncio
import csv
import shutil
from typing import Any

from mpim_lab.bench.cases import Case
from mpim_lab.errors import LoadFailed
from mpim_lab.mq.connection.address import Address

PROGRAM = "redis-benchmark"
LIMIT = "limit"
_MAX_PIPELINED = 64
_LIMIT_S = 30.0


def missing_limit() -> str | None:
    """Why the limit cannot be measured here; None if it can."""
    if shutil.which(PROGRAM) is None:
        return f"{PROGRAM} is not installed: apt-get install redis-tools, or brew install redis"
    return None


async def measure_limit(
    url: str, case: Case, seconds: float, payload_bytes: int, prefix: str = ""
) -> float:
    """PUBLISH commands a second with as many in flight as the case has tasks.

    Nobody is subscribed. At most 64 are in one pipeline. Raises LoadFailed.
    """
    if case.is_open:
        raise LoadFailed(f"{PROGRAM} has no open loop")
    pipelined = min(case.tasks, _MAX_PIPELINED)
    command = [*_program(url), "-c", str(case.tasks // pipelined), "-P", str(pipelined)]
    publish = ["PUBLISH", f"{prefix}load:limit", "x" * payload_bytes]
    rough_per_s = await _run([*command, "-n", str(2_000 * pipelined), *publish])
    return await _run([*command, "-n", str(int(rough_per_s * seconds)), *publish])


def _program(url: str) -> list[str]:
    address = Address.parse(url)
    if address.tls is not None or address.password is not None:
        raise LoadFailed("not measured on a server with a password or TLS")
    where = (
        ["-s", address.path]
        if address.path is not None
        else ["-h", address.host, "-p", str(address.port)]
    )
    return [PROGRAM, "--csv", *where]


async def _run(command: list[str]) -> float:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_LIMIT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise LoadFailed(f"{PROGRAM} did not end within {_LIMIT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return commands_per_s(said.decode("utf-8", "replace"))


def commands_per_s(said: str) -> float:
    r"""Read the rate from what `redis-benchmark --csv` said, with or without a heading.

    Raises LoadFailed.

    >>> commands_per_s('"test","rps","avg"\n"PUBLISH c x","901123.50","0.1"\n')
    901123.5
    """
    rows: list[Any] = list(csv.reader(said.splitlines()))
    try:
        return float(rows[-1][1])
    except (IndexError, ValueError) as error:
        raise LoadFailed(f"{PROGRAM} said: {said.strip()[-300:]}") from error
