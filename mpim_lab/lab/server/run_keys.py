"""Run keys: what lab runs keep on the reader's own server, and how it is removed.

| key                 | type   | lifetime                     | what it says               |
|---------------------|--------|------------------------------|----------------------------|
| `lab-runs`          | set    | until its last run is gone   | prefixes of runs on record |
| `<prefix>lab:alive` | string | `ALIVE_S`, renewed meanwhile | this run lives: keep away  |
| `<prefix>…`         | any    | the run's                    |                            |

The first two are written by a run and by its guard, the others by the lab. A prefix is `lab-`,
eight hexadecimal digits and a colon; nothing else is ever removed. A run without its heartbeat is
dead: the next run removes what it left, and so does `mpim-lab doctor`, which also finds those that
are not on record.

`python -m mpim_lab.lab.server.run_keys` is the guard of one run: a process that outlives it. It
reads the URL and the prefix from standard input, where `ps` does not show them, renews the
heartbeat, and removes the run's keys at end-of-file.
"""

import asyncio
import contextlib
import json
import re
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from mpim_lab.errors import MpimError, NotConnected, ServerFailed

RUNS = b"lab-runs"
ALIVE_S, RENEW_EVERY_S = 15, 3.0
SCAN_PAGE, UNLINK_BATCH = 1_000, 200
CALL_TIMEOUT_S = 5.0
RETRY_AFTER_S, IDLE_ROUNDS, CLEANUP_TIMEOUT_S = 0.5, 6, 60.0
_PREFIX = re.compile(rb"lab-[0-9a-f]{8}:")
_GLOB = re.compile(rb"[\\*?\[\]]")


def new_prefix() -> str:
    """Make the prefix of a new run."""
    return f"lab-{secrets.token_hex(4)}:"


def escape_glob(name: bytes) -> bytes:
    r"""Write a name so that MATCH takes every character of it for itself.

    >>> escape_glob(b"run[1]*:")
    b'run\\[1\\]\\*:'
    """
    return _GLOB.sub(lambda found: b"\\" + found[0], name)


@contextlib.asynccontextmanager
async def open_run_keys(url: str) -> AsyncIterator["RunKeys"]:
    """Open the keys of all runs on one server.

    Every error of the server, or of the way to it, is one of ours.
    """
    async with Redis.from_url(
        url,
        protocol=3,
        decode_responses=False,
        socket_timeout=CALL_TIMEOUT_S,
        socket_connect_timeout=CALL_TIMEOUT_S,
    ) as client:
        try:
            yield RunKeys(client)
        except NoPermissionError as error:
            raise ServerFailed(f"this user may not do what cleaning up needs: {error}") from error
        except ResponseError as error:
            raise ServerFailed(str(error)) from error
        except (RedisError, OSError) as error:
            raise NotConnected(f"the server does not answer: {error}") from error


class RunKeys:
    """The keys that runs of the lab keep on one server."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def send_heartbeat(self, prefix: str) -> None:
        """Renew a run's heartbeat, and put the run on record."""
        await self._client.set(_alive(prefix.encode()), b"1", ex=ALIVE_S)
        await self._client.sadd(RUNS, prefix.encode())

    async def remove(self, prefix: str) -> int:
        """Remove everything of one's own run, its heartbeat and its record last.

        Return how many keys there were.
        """
        return await self._remove(prefix.encode(), is_ours=True)

    async def remove_dead_runs(self, *, everywhere: bool = False) -> int:
        """Remove what runs without a heartbeat have left.

        Return how many keys. everywhere: those not on record, too.
        """
        prefixes = set(await self._client.smembers(RUNS))
        if everywhere:
            async for page in self._pages(b"lab-????????:*"):
                prefixes.update(found[0] for key in page if (found := _PREFIX.match(key)))
        runs = sorted(filter(_PREFIX.fullmatch, prefixes))
        return sum([await self._remove(prefix, is_ours=False) for prefix in runs])

    async def count(self, prefix: str) -> int:
        """Count a run's keys, but for its heartbeat."""
        pages = self._pages(escape_glob(prefix.encode()) + b"*")
        return len({key async for page in pages for key in page} - {_alive(prefix.encode())})

    async def _remove(self, prefix: bytes, *, is_ours: bool) -> int:
        """Remove a run's keys, page by page.

        One that shows its heartbeat meanwhile keeps what it has.
        """
        removed, alive = 0, _alive(prefix)
        async for page in self._pages(escape_glob(prefix) + b"*"):
            keys = [key for key in page if key != alive]
            for first in range(0, len(keys), UNLINK_BATCH):
                if not is_ours and await self._client.exists(alive):
                    return removed
                removed += await self._unlink(keys[first : first + UNLINK_BATCH])
        if is_ours or not await self._client.exists(alive):
            await self._unlink([alive])
            await self._client.srem(RUNS, prefix)
        return removed

    async def _pages(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        cursor = None
        while cursor != 0:
            cursor, page = await self._client.scan(cursor or 0, match=pattern, count=SCAN_PAGE)
            yield page

    async def _unlink(self, keys: list[bytes]) -> int:
        try:
            return int(await self._client.unlink(*keys))
        except ResponseError:  # not allowed, or not known: DEL does the same, only slower
            return int(await self._client.delete(*keys))


def _alive(prefix: bytes) -> bytes:
    return prefix + b"lab:alive"


async def guard_run(url: str, prefix: str, last_line: "asyncio.Future[bytes]") -> int:
    """Renew a run's heartbeat until `last_line` is done, then remove its keys; return how many.

    last_line: what the run wrote last: a line if it ends in good order, nothing if it died. Then
    its load processes and gateways are about to end, too: look again until they have written
    nothing for a while. Raises TimeoutError, ServerFailed, and NotConnected if somebody waits for
    the answer.
    """
    dead_runs = asyncio.create_task(_remove_dead_runs(url))
    while not (await asyncio.wait([last_line], timeout=RENEW_EVERY_S))[0]:
        with contextlib.suppress(MpimError):
            async with open_run_keys(url) as found:
                await found.send_heartbeat(prefix)
    remove = _remove_run if last_line.result() else _remove_run_after_death
    async with asyncio.timeout(CLEANUP_TIMEOUT_S):
        removed = await remove(url, prefix)
        await dead_runs
    return removed


async def _remove_dead_runs(url: str) -> None:
    with contextlib.suppress(MpimError):
        async with open_run_keys(url) as found:
            await found.remove_dead_runs()


async def _remove_run(
    url: str, prefix: str, *, idle_rounds: int = 1, retry_after_s: float = 0.02
) -> int:
    removed = idle = 0
    async with open_run_keys(url) as found:
        while idle < idle_rounds:
            now_removed = await found.remove(prefix)
            removed, idle = removed + now_removed, 0 if now_removed else idle + 1
            await asyncio.sleep(retry_after_s if idle < idle_rounds else 0)
    return removed


async def _remove_run_after_death(url: str, prefix: str) -> int:
    while True:
        with contextlib.suppress(NotConnected):  # it may come back
            return await _remove_run(
                url, prefix, idle_rounds=IDLE_ROUNDS, retry_after_s=RETRY_AFTER_S
            )
        await asyncio.sleep(RETRY_AFTER_S)


async def _lines() -> Callable[[], Awaitable[bytes]]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader.readline


async def _main() -> dict[str, Any]:
    next_line = await _lines()
    first = await next_line()
    if not first:  # whoever started us is gone already
        return {}
    order = json.loads(first)
    with contextlib.suppress(BrokenPipeError):  # it has died meanwhile: its keys are to be removed
        print(json.dumps({"ready": True}), flush=True)
    last_line = asyncio.ensure_future(next_line())
    try:
        return {"removed": await guard_run(order["url"], order["prefix"], last_line)}
    except (MpimError, TimeoutError) as error:
        return {"failed": str(error) or "it took too long"}


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(asyncio.run(_main())), flush=True)
