"""Guard: a server process that cannot outlive us, even if we are killed with SIGKILL.

A shell starts the server as its child and reads from a pipe whose other end is ours. However we end, that end closes, the
shell reads end-of-file, kills the server (a stopped one, too) and removes its directory. It also works on macOS, where a
process cannot ask to die with its parent. A session of its own keeps Jupyter's interrupts, which go to the whole process
group, away from both.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

# $1 is the directory; the rest is the server's command line. The read ends with a line ("keep") or end-of-file.
_SCRIPT = """
directory=$1; shift
"$@" >>"$directory/log" 2>&1 </dev/null &
echo $!
read word
kill -9 $! 2>/dev/null
[ "$word" = keep ] || rm -rf "$directory"
"""
_THREADS = 16  # the place of num_threads in /proc/PID/stat, after the state


class Guard:
    """One server process and the shell that guards it."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "sh", str(directory), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._shell.stdout is not None
        self.pid = int(self._shell.stdout.readline())

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal. The shell has not collected it, so the pid cannot be another's."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def is_running(self) -> bool:
        """The server process exists and is not a zombie."""
        return self._shell.poll() is None and _state(self.pid) not in ("", "Z")

    def end(self, *, keep_directory: bool) -> None:
        """Kill the server if it still runs, and the guard; blocks until both are gone (milliseconds)."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        if self._shell.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.write(b"keep\n" if keep_directory else b"")
            self._shell.stdin.close()
        self._shell.wait()
        self._shell.stdout.close()
        deadline = time.monotonic() + 5
        while _state(self.pid) not in ("", "Z") and time.monotonic() < deadline:
            time.sleep(0.001)


def _state(pid: int) -> str:
    """The process state letter of `ps`; "" when there is no such process. A zombie ("Z") holds no sockets any more."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        is_ending = state == "Z" and int(rest[_THREADS]) > 1  # its other threads still hold them
        return "D" if is_ending else state
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    except ProcessLookupError:
        return ""
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1]
