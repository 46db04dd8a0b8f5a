"""Doctor: what is present, what is missing, and what to do about it, in plain words."""

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mpim_lab.errors import MpimError
from mpim_lab.events import now
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.run_keys import open_run_keys
from mpim_lab.lab.server.version import server_version, too_old
from mpim_lab.mq.pubsub.queue import MessageQueue

NEEDED = ("jupyterlab", "redis", "hiredis", "ipywidgets", "anywidget", "pandas", "plotly", "nbval")
OPTIONAL_PACKAGES = {
    "uvloop": "a faster event loop for the load processes; without it they use asyncio's",
    "valkey-glide": "a peer of `mpim-lab bench`: pip install 'mpim_lab[peers]'",
    "coredis": "a peer of `mpim-lab bench`: pip install 'mpim_lab[peers]'",
}
OPTIONAL_PROGRAMS = {
    "redis-server": "the second server the tests run on",
    "redis-cli": "lets you look at the lab's server from a terminal",
    "redis-benchmark": "the limit in `mpim-lab bench`",
}
SETTINGS = (
    (
        "maxmemory-policy",
        "noeviction",
        "another policy may evict a queue's keys: messages are gone without an error",
    ),
    (
        "appendonly",
        "yes",
        "without it a crash of the server takes what was acknowledged since its last snapshot",
    ),
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `needed`: the lab does not work without it."""

    name: str
    ok: bool
    needed: bool
    found: str
    advice: str = ""

    def __str__(self) -> str:
        mark = "✔" if self.ok else "✘" if self.needed else "–"
        advice = f"  → {self.advice}" if self.advice and not self.ok else ""
        return f"{mark} {self.name}: {self.found}{advice}"


async def diagnose() -> list[Check]:
    """Look at everything; a server is really started and a message really sent."""
    checks = [_python(), *(_package(name, needed=True) for name in NEEDED)]
    is_readers = os.environ.get("MPIM_REDIS_URL", "").strip()
    checks += await _own_server() if is_readers else [await _server("server")]
    checks.append(_open_files())
    checks += [
        _package(name, needed=False, advice=advice) for name, advice in OPTIONAL_PACKAGES.items()
    ]
    checks += [_program(name, advice) for name, advice in OPTIONAL_PROGRAMS.items()]
    return checks


def _python() -> Check:
    version = platform.python_version()
    found = f"{version} on {platform.system()} {platform.machine()}"
    return Check("Python", sys.version_info >= (3, 11), True, found, "install Python 3.11 or newer")


def _package(name: str, *, needed: bool, advice: str = "") -> Check:
    try:
        return Check(name, True, needed, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        advice = advice or "run `make lab`, which installs it"
        return Check(name, False, needed, "not installed", advice)


async def _server(name: str) -> Check:
    """Start it (or reach the reader's own), publish once, stop it."""
    begun = now()
    try:
        async with open_server() as server, MessageQueue(server.url, prefix=server.prefix) as queue:
            await queue.publish("doctor", b"are you there?")
            found = f"answers after {(now() - begun) * 1e3:.0f} ms"
            if isinstance(server, EmbeddedServer):
                found = f"{_version(server.binary)}, started and {found}"
    except MpimError as error:
        return Check(name, False, True, "does not answer", str(error))
    return Check(name, True, True, found)


async def _own_server() -> list[Check]:
    """Look at the server that MPIM_REDIS_URL names.

    Version, settings, and what dead runs have left there.
    """
    url, name = os.environ["MPIM_REDIS_URL"].strip(), "server (MPIM_REDIS_URL)"
    if not (check := await _server(name)).ok:
        return [check]
    try:
        async with open_run_keys(url) as keys:
            removed = await keys.remove_dead_runs(everywhere=True)
        version = await server_version(url)
        settings = await _settings(url)
    except MpimError as error:
        return [Check(name, False, True, "cannot be used", str(error))]
    advice = (
        "the lab needs Redis 7.0 or newer, or any Valkey; unset MPIM_REDIS_URL for a private one"
    )
    checks = [
        check,
        Check(f"version of the {name}", not too_old(version), True, version, advice),
        *settings,
    ]
    found = f"{removed:,} keys of runs that had died, now removed" if removed else "none"
    return [*checks, Check("leftovers of dead runs", True, False, found)]


async def _settings(url: str) -> list[Check]:
    """Look at the settings that decide what a queue may lose, as far as this user may see them."""
    checks: list[Check] = []
    async with Redis.from_url(url, protocol=3, decode_responses=True, socket_timeout=5) as client:
        for name, wanted, advice in SETTINGS:
            try:
                value = str((await client.config_get(name)).get(name, "unknown"))
            except RedisError as error:
                return [*checks, Check(name, False, False, "not shown to this user", str(error))]
            checks.append(Check(name, value == wanted, False, value, advice))
    return checks


def _version(binary: str) -> str:
    command = [binary, "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    words = ran.stdout.split()[:3]
    return " ".join(word.removeprefix("v=") for word in words if word != "server")


def _program(name: str, advice: str) -> Check:
    path = shutil.which(name)
    return Check(name, path is not None, False, path or "not installed", advice)


def _open_files() -> Check:
    if importlib.util.find_spec("resource") is None:
        return Check("open files", True, False, "no limit known")
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Check("open files", soft >= 1_024, False, f"{soft} (at most {hard})", "ulimit -n 4096")


def report() -> int:
    """Print every check and what they come to.

    Gives the exit status: 1 if something needed is missing.
    """
    checks = asyncio.run(diagnose())
    for check in checks:
        print(check)
    missing = [check.name for check in checks if check.needed and not check.ok]
    if missing:
        print(f"\nThe lab cannot run yet: {', '.join(missing)}.")
    else:
        print("\nEverything the lab needs is here.")
    return bool(missing)
