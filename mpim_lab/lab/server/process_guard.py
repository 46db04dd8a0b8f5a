"""Guard: a server process that cannot outlive us, even if we are killed with SIGKILL.

A shell starts the server as its child and reads from a pipe whose other end is ours. However we
end, that end closes, the shell reads end-of-file, kills the server (a stopped one, too) and removes
its directory. It also works on macOS, where a process cannot ask to die with its parent. A session
of its own keeps Jupyter's interrupts, which go to the whole process group, away from both.

| exit                      | what ends the server and removes its directory                  |
|---------------------------|-----------------------------------------------------------------|
| `stop`                    | the shell; who is there after `STOP_TIMEOUT_S` is killed        |
| we are killed             | the shell, at end-of-file                                       |
| we fork, and are killed   | the shell: a forked child closes its copy of the pipe at once   |
| the shell is killed       | `stop`, by the process group; until then the server goes on     |
| the server ends by itself | nothing to do; `stop` removes the directory                     |
"""

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from mpim_lab.errors import ServerFailed, WrongLoop

STOP_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 10.0
# $1 is the directory; the rest is the server's command line. The read ends with a line ("keep") or
# end-of-file. In the end the whole group is killed, the shell with it: a program that is a script
# may have started the server itself.
_SCRIPT = """
directory=$1; shift
"$@" >>"$directory/log" 2>&1 </dev/null &
echo $!
read word
kill -9 $! 2>/dev/null
[ "$word" = keep ] || command -p rm -rf "$directory"
kill -9 0
"""
_THREADS = 16  # the place of num_threads in /proc/PID/stat, after the state
_lifelines: "weakref.WeakSet[Any]" = weakref.WeakSet()


def close_in_forks(pipe: Any) -> None:
    """Have each forked child of ours close its copy of a pipe.

    Whoever reads end-of-file from it waits for our end alone.
    """
    _lifelines.add(pipe)


def _close_lifelines() -> None:
    for pipe in list(_lifelines):
        with contextlib.suppress(OSError, ValueError):
            pipe.close()


os.register_at_fork(after_in_child=_close_lifelines)


def end_with_parent(poll_every_s: float = 0.5) -> None:
    """End this process soon after its parent, even if its event loop hangs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_every_s)
        os._exit(1)

    threading.Thread(target=watch, name="ends with the parent", daemon=True).start()


class Guard:
    """A child process that reads end-of-file when we end, however we end.

    Belongs to the process that made it: WrongLoop in a forked child.
    """

    def __init__(self, what: str, command: Sequence[str], **options: Any) -> None:
        self._what, self._owner = what, os.getpid()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # an interrupt of the notebook's cell is for the notebook
                **options,
            )
        except OSError as error:
            raise ServerFailed(f"no process can be started: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        close_in_forks(self._stdin)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            whose = f"belongs to the process {self._owner}, which this one was forked from"
            raise WrongLoop(f"{self._what} {whose}")


class ProcessGuard(Guard):
    """One server process and the shell that guards it."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        shell = ["/bin/sh", "-c", _SCRIPT, "sh", str(directory), *command]
        super().__init__("the server", shell)
        self.pid = 0
        try:
            self.pid = int(_first_line(self._stdout))
        except ValueError:
            self.stop(keep_directory=True)
            raise ServerFailed("the shell that guards the server ended at once") from None

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal; nothing happens when it is gone."""
        self._check_owner()
        if self._is_there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def is_running(self) -> bool:
        """The server process exists and is not a zombie."""
        self._check_owner()
        self._process.poll()
        return self._is_there

    @property
    def _is_there(self) -> bool:
        """The pid is the server's still, and not another's.

        It is in the group that began with the shell.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            return (
                bool(self.pid)
                and os.getpgid(self.pid) == self._process.pid
                and _state(self.pid) not in ("", "Z")
            )
        return False

    def stop(self, *, keep_directory: bool) -> None:
        """Kill the server if it still runs, and the guard.

        Blocks until both are gone (milliseconds).
        """
        self._check_owner()
        if self._stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(b"keep\n" if keep_directory else b"")
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        if self._process.poll() is None or self._is_there:  # the shell is stopped, or was killed
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stdout.close()
        while self._is_there and time.monotonic() < deadline:
            time.sleep(0.001)


def _first_line(stream: IO[bytes]) -> bytes:
    ready, _, _ = select.select([stream], [], [], _START_TIMEOUT_S)
    return stream.readline() if ready else b""


def _state(pid: int) -> str:
    """The process state letter of `ps`; "" when there is no such process.

    A zombie ("Z") holds no sockets any more.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        is_ending = state == "Z" and int(rest[_THREADS]) > 1  # its other threads still hold them
        return "D" if is_ending else state
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    except ProcessLookupError:
        return ""
    shown = subprocess.run(
        ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()[:1]
