"""Node: the peer that runs on it, installed once, by npm, into a folder of its own."""

import shutil
import subprocess
from pathlib import Path

from platformdirs import user_cache_path

PEERS = Path(__file__).parent
PROGRAM = "socketio_server.mjs"
INSTALL_TIMEOUT_S = 180
_CHECKOUT = PEERS.parents[3]
_INSTALL = (
    "install",
    "--no-audit",
    "--no-fund",
    "--no-package-lock",
    "--ignore-scripts",
    "--omit=dev",
)


def node_folder() -> Path:
    """Where it is installed: in a checkout's build folder, else in the reader's cache."""
    if (_CHECKOUT / "pyproject.toml").is_file():
        return _CHECKOUT / "build" / "peers"
    return user_cache_path("mpim_lab", appauthor=False) / "peers"


def missing_node() -> str | None:
    """Why the peer on Node cannot run here; None if it can.

    Installs it at the first call, and blocks meanwhile.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    folder, wanted = node_folder(), (PEERS / "package.json").read_text()
    installed = folder / "installed.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(PEERS / PROGRAM, folder)
        if installed.exists() and installed.read_text() == wanted:
            return None
        shutil.copy(PEERS / "package.json", folder)
        if reason := _install(folder):
            return reason
        installed.write_text(wanted)
    except OSError as error:
        return f"socket.io could not be installed into {folder}: {error.strerror}"
    return None


def _install(folder: Path) -> str | None:
    try:
        done = subprocess.run(
            ("npm", *_INSTALL),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"npm did not install socket.io within {INSTALL_TIMEOUT_S} s"
    if done.returncode:
        lines = [
            line.removeprefix("npm error ")
            for line in done.stderr.splitlines()
            if "complete log" not in line
        ]
        return f"npm could not install socket.io: {next(iter(lines), 'it said nothing')}"
    return None


def node_version() -> str | None:
    """The version of Node; None without one."""
    if shutil.which("node") is None:
        return None
    done = subprocess.run(
        ("node", "--version"), capture_output=True, text=True, timeout=10, check=False
    )
    return done.stdout.strip() or None
