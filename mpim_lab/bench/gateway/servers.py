"""Gateway servers: who is compared in `mpim-lab bench gateway`, each in a process of its own."""

import asyncio
import json
import os
import secrets
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from mpim_lab.bench.gateway.peers.node import PROGRAM, missing_node, node_folder
from mpim_lab.errors import ServerFailed
from mpim_lab.lab.server.child import child_command, child_environment
from mpim_lab.lab.server.process_guard import ProcessGuard
from mpim_lab.load.gateway.plan import MPIM, SOCKET_IO

PEERS = Path(__file__).parent / "peers"
START_TIMEOUT_S, STOP_TIMEOUT_S = 30.0, 5.0
LAST_LINES = 20
# Of one client: the peers set no limit, and a closed loop would reach the usual one.
MAX_FRAMES_PER_S = "1000"
AT_MOST_ONCE = (
    "at most once: what a client misses is gone; "
    "not kept, not numbered, no acknowledgement by the receiver"
)
PYTHON_PEERS = ("socketio", "uvicorn", "websockets")


@dataclass(frozen=True)
class GatewayCandidate:
    """A server to compare: how it is started, how its clients speak, and what it promises to them.

    command() → argv; `missing()` → why it cannot run here, None if it can.
    """

    who: str
    protocol: str
    note: str
    command: Callable[[], Sequence[str]]
    missing: Callable[[], str | None]


def _missing_ours() -> str | None:
    return None if find_spec("mpim_lab.im") else "mpim_lab.im is not there"


def _missing_python_peer() -> str | None:
    lacking = [name for name in PYTHON_PEERS if find_spec(name) is None]
    return f"{', '.join(lacking)} not installed: pip install 'mpim_lab[peers]'" if lacking else None


CANDIDATES = {
    candidate.who: candidate
    for candidate in (
        GatewayCandidate(
            "mpim_lab",
            MPIM,
            "exactly once in effect, in order: "
            "numbered, kept before `sent`, acknowledged by the receiver, sent again",
            lambda: child_command("mpim_lab.im", "--rate", MAX_FRAMES_PER_S),
            _missing_ours,
        ),
        GatewayCandidate(
            "python-socketio",
            SOCKET_IO,
            AT_MOST_ONCE,
            lambda: (sys.executable, str(PEERS / "socketio_server.py")),
            _missing_python_peer,
        ),
        GatewayCandidate(
            "socket.io on Node",
            SOCKET_IO,
            AT_MOST_ONCE,
            lambda: ("node", str(node_folder() / PROGRAM)),
            missing_node,
        ),
    )
}


class GatewayServer:
    """A candidate's server process.

    It listens from entry on, and is gone on exit, or when we are killed.

    Raises ServerFailed with its last lines when it does not start.
    """

    def __init__(self, candidate: GatewayCandidate, redis_url: str, prefix: str = "") -> None:
        self.candidate, self.port = candidate, 0
        self.last_lines: list[str] = []  # what it said in the end, once it is gone
        self.secret = secrets.token_urlsafe(32)
        # The others are told the prefix by PEER_CHANNEL.
        named = ("--prefix", prefix) if candidate.protocol == MPIM and prefix else ()
        self._command = (*candidate.command(), *named)
        self.prefix = prefix
        self._told = {
            **child_environment(),
            "MPIM_REDIS_URL": redis_url,
            "MPIM_SECRET": self.secret,
            "PEER_REDIS_URL": redis_url,
            "PEER_CHANNEL": f"{prefix}socket.io",
            "NODE_ENV": "production",
        }

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="mpim-gateway-"))
        # Not on argv, where everybody could read it; the shell becomes the server, which so has the
        # guard's own child's pid.
        told = self._directory / "environment"
        told.touch(mode=0o600)
        told.write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self._told.items())
        )
        self._guard = ProcessGuard(
            ("/bin/sh", "-c", '. "$0"; exec "$@"', str(told), *self._command), self._directory
        )
        try:
            self.port = await self._listening()
        except BaseException:
            self._forget()
            raise
        return self

    async def _listening(self) -> int:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while self._guard.is_running:
                    for line in self._lines():
                        if line.startswith("{") and '"port"' in line:
                            return int(json.loads(line)["port"])
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise ServerFailed(self._said(f"does not listen after {START_TIMEOUT_S:g} s")) from None
        raise ServerFailed(self._said("ended at once"))

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._guard.pid

    def check(self) -> None:
        """Raise ServerFailed if it has ended by itself."""
        if not self._guard.is_running:
            raise ServerFailed(self._said("ended by itself"))

    def _lines(self) -> list[str]:
        log = self._directory / "log"
        return log.read_text(errors="replace").splitlines() if log.exists() else []

    def _said(self, what: str) -> str:
        return "\n".join(
            [f"the server of {self.candidate.who} {what}:", *self._lines()[-LAST_LINES:]]
        )

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            self._guard.signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while self._guard.is_running:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass  # it does not want to: the guard does not ask
        finally:
            self._forget()

    def _forget(self) -> None:
        self.last_lines = self._lines()[-LAST_LINES:]
        self._guard.stop(keep_directory=False)


def resident_bytes(pid: int) -> int | None:
    """How much memory a process has in RAM; None where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def spent_s(pid: int) -> float | None:
    """How much CPU time a process has used so far; None where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
