"""ExternalServer: the reader's own server, by URL.

The lab leaves nothing behind on it and does not touch its process.

| exit                   | what removes the run's keys                                       |
|------------------------|-------------------------------------------------------------------|
| `stop`, also cancelled | the run's guard, a process of its own, which says how it went     |
| we are killed          | the guard, at end-of-file                                         |
| the guard is killed    | another, begun within seconds; if we die before: the next run     |
| the server is gone     | nobody: `stop` logs what is left. If it is back: the next run     |

The next run on that server does so, or `mpim-lab doctor`. The guard is `run_keys`.
"""

import asyncio
import contextlib
import json
import logging
import select
import subprocess
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from mpim_lab.errors import FaultUnavailable, MpimError, ServerFailed
from mpim_lab.events import now
from mpim_lab.lab.server.child import child_command, child_environment
from mpim_lab.lab.server.process_guard import Guard
from mpim_lab.lab.server.run_keys import CLEANUP_TIMEOUT_S, RENEW_EVERY_S, new_prefix, open_run_keys
from mpim_lab.lab.server.version import unsupported_reason
from mpim_lab.mq.connection.address import Address

START_TIMEOUT_S, POLL_EVERY_S = 10.0, 0.01
GUARD_GONE = "the run's guard is gone"
_REASONS = {
    "kill": "kill it",
    "pause": "pause it",
    "limit": "change its settings",
}
_NEEDS = {  # what a fault does to the server
    "server kill": "kill",
    "server restart": "kill",
    "slow": "limit",
    "partition": "cut",
    "flush fails": "cut",
    "broken connection": "cut",
    "idle rot": "cut",
}
_NO_CLIENT = str(2**62)
_log = logging.getLogger(__name__)


class ExternalServer:
    """A server that was there before us. Every key and channel carries `prefix`, new for each lab.

    Args:
        url: its address: redis://, rediss:// or unix://, with user, password and database.

    Raises:
        InvalidParameter: the address is none.
        ServerFailed: it cannot be reached or used; raised by `start`.
    """

    unix_url = None

    def __init__(self, url: str) -> None:
        self.url, self._address = url, Address.parse(url)
        self.prefix = new_prefix()
        self._guard: KeyGuard | None = None
        self._watching: asyncio.Task[None] | None = None
        self._no_cutting = ""  # what the server says when it refuses CLIENT LIST and CLIENT KILL

    @property
    def is_running(self) -> bool:
        """Whether it runs: not ours to know; it answered when we started."""
        return True

    async def start(self) -> None:
        """Make sure that it answers, and that what we write will be removed. Idempotent.

        Raises:
            ServerFailed: it does not answer, or the lab cannot use it.
        """
        if self._guard is not None:
            return
        try:
            async with (
                asyncio.timeout(START_TIMEOUT_S),
                Redis.from_url(self.url, protocol=3) as client,
            ):
                if reason := await unsupported_reason(client):
                    raise ServerFailed(reason)
                self._no_cutting = await _cut_refusal(client)
            if self._guard is None:
                self._guard = KeyGuard(self.url, self.prefix)
            async with asyncio.timeout(START_TIMEOUT_S), open_run_keys(self.url) as keys:
                await keys.send_heartbeat(self.prefix)
            self._watching = asyncio.create_task(self._watch())
        except BaseException as error:
            guard, self._guard = self._guard, None
            if guard is not None:
                guard.release()
            failed = self._failed(error)
            raise failed from (None if failed is error else error)

    async def _watch(self) -> None:
        """Begin another guard when ours is gone.

        Without its heartbeat, others would take the run for dead.
        """
        while self._guard is not None:
            await asyncio.sleep(RENEW_EVERY_S)
            if self._guard is not None and self._guard.is_gone:
                with contextlib.suppress(ServerFailed):  # no process can be started now
                    self._guard = KeyGuard(self.url, self.prefix)

    def _failed(self, error: BaseException) -> BaseException:
        if isinstance(error, RedisError | OSError | TimeoutError):
            why = str(error) or f"nothing came within {START_TIMEOUT_S:g} s"
            return ServerFailed(f"MPIM_REDIS_URL is {self._address}, and it does not answer: {why}")
        if isinstance(error, MpimError):
            return ServerFailed(
                f"MPIM_REDIS_URL is {self._address}, and the lab cannot use it: {error}"
            )
        return error

    async def stop(self) -> None:
        """Remove every key with our prefix; channels leave nothing.

        What cannot be removed is logged, not raised.
        """
        guard, self._guard = self._guard, None
        if guard is None:
            return
        if self._watching is not None:
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                self._watching.cancel()
        failed = await (guard.stop() if guard.is_ready else self._remove_before(guard))
        if failed == GUARD_GONE:
            failed = await self._remove()
        if failed is not None:
            _log.warning(
                "what the lab wrote under %s on %s is still there (%s): "
                "the next run there removes it, or `mpim-lab doctor`",
                *(self.prefix, self._address, failed),
            )

    async def _remove_before(self, guard: "KeyGuard") -> str | None:
        """Remove our keys ourselves while the guard has yet to begin; it does so if we cannot."""
        try:
            failed = await self._remove()
        except BaseException:
            guard.release()
            raise
        if failed is None:
            guard.kill()
        guard.release()
        return failed

    async def _remove(self) -> str | None:
        try:
            async with asyncio.timeout(CLEANUP_TIMEOUT_S), open_run_keys(self.url) as keys:
                while await keys.remove(self.prefix):
                    pass  # what was on its way came after it
                await keys.remove_dead_runs()
        except (MpimError, TimeoutError) as error:
            return str(error) or "it took too long"
        return None

    async def restart(self) -> None:
        """Refuse: it is not ours.

        Raises:
            FaultUnavailable: always.
        """
        raise FaultUnavailable(self._refusal("restart it"))

    def kill(self) -> None:
        """Refuse: it is not ours.

        Raises:
            FaultUnavailable: always.
        """
        raise FaultUnavailable(self.unavailable_reason("kill"))

    def pause(self) -> None:
        """Refuse: it is not ours.

        Raises:
            FaultUnavailable: always.
        """
        raise FaultUnavailable(self.unavailable_reason("pause"))

    def resume(self) -> None:
        """Refuse: it is not ours.

        Raises:
            FaultUnavailable: always.
        """
        raise FaultUnavailable(self.unavailable_reason("pause"))

    def unavailable_reason(self, fault: str) -> str | None:
        """Say why a fault is not offered here.

        Args:
            fault: its kind, or what it does: "kill", "pause", "limit" or "cut".

        Returns:
            The reason in words; None if the fault can be caused.
        """
        deed = _NEEDS.get(fault, fault)
        if deed == "cut" and self._no_cutting:
            refused = f"see or cut connections ({self._no_cutting})"
            return f"the operator of {self._address} does not let this user {refused}"
        return self._refusal(_REASONS[deed]) if deed in _REASONS else None

    def _refusal(self, deed: str) -> str:
        advice = "unset MPIM_REDIS_URL for a private one"
        return f"the server at {self._address} is yours: the lab does not {deed}; {advice}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


async def _cut_refusal(client: Any) -> str:
    try:
        await client.execute_command("CLIENT", "LIST", "ID", _NO_CLIENT)
        await client.execute_command("CLIENT", "KILL", "ID", _NO_CLIENT)
    except ResponseError as error:
        return str(error)
    return ""


class KeyGuard(Guard):
    """Our end of the process that removes a run's keys, however the run ends."""

    def __init__(self, url: str, prefix: str) -> None:
        command = child_command("mpim_lab.lab.server.run_keys")
        super().__init__("the run", command, env=child_environment(), stderr=subprocess.DEVNULL)
        self._send({"url": url, "prefix": prefix})

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """It has begun, or is gone already. Raises WrongLoop in a forked child."""
        self._check_owner()
        return bool(select.select([self._stdout], [], [], 0)[0])

    @property
    def is_gone(self) -> bool:
        """It has ended, although nobody told it to."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """There is nothing left to remove."""
        self._process.kill()
        self._process.wait()

    async def stop(self) -> str | None:
        """Have it remove everything, and wait; return why it could not, if so.

        It goes on when the waiting is cancelled.
        """
        self._send("end")
        self.release()
        deadline = now() + CLEANUP_TIMEOUT_S + START_TIMEOUT_S
        while self._process.poll() is None and now() < deadline:
            await asyncio.sleep(POLL_EVERY_S)
        if self._process.returncode is None:
            self._process.kill()
            return GUARD_GONE
        with self._stdout as said:
            found = said.read()
        reports = [json.loads(line) for line in found.splitlines()]
        return next(
            (report.get("failed") for report in reports if "ready" not in report), GUARD_GONE
        )

    def release(self) -> None:
        """Have it remove everything, without waiting: as if we had died."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def _send(self, line: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone, which `stop` finds
            self._stdin.write(json.dumps(line).encode() + b"\n")
            self._stdin.flush()
