"""Databases for tests: SQLite in memory and in a file, and a MariaDB of our own where Debian's `mariadbd` is installed.

A test module says `pytest_plugins = ["tests.databases"]`. A test that takes `database_url` runs on
all three; one that takes `shared_database_url`, on the two that several stores can open.
"""

import contextlib
import itertools
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from mpim_lab.lab.server.process_guard import ProcessGuard
from tests.conftest import missing

WITHIN_S = 30


class MariaDb:
    """A server on a free loopback port, in a directory of its own; it cannot outlive us."""

    def __init__(self, directory):
        self._port, self._numbers = _free_port(), itertools.count(1)
        data, socket_path = directory / "data", directory / "s"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        install += ["--auth-root-authentication-method=normal", "--user=root"]
        subprocess.run(install, check=True, capture_output=True, timeout=60)
        here = [
            f"--socket={socket_path}",
            f"--port={self._port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
        ]
        small = [
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--performance-schema=OFF",
        ]
        command = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", *here, *small]
        self._guard = ProcessGuard(command, directory)
        deadline = time.monotonic() + WITHIN_S
        while not _answers(self._port):
            if time.monotonic() > deadline or not self._guard.is_running:
                raise AssertionError(
                    f"mariadbd did not start: {(directory / 'log').read_text()[-1_000:]}"
                )
            time.sleep(0.05)

    def url(self, database=""):
        """Where it is."""
        return f"mysql+asyncmy://root@127.0.0.1:{self._port}/{database}"

    @contextlib.asynccontextmanager
    async def database(self):
        """An empty database, whose own character set knows no Chinese: our tables bring theirs.

        Gone at the end.
        """
        name = f"chat_{next(self._numbers)}"
        engine = create_async_engine(self.url(), poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(text(f"create database {name} character set latin1"))
        yield self.url(name)
        async with engine.begin() as connection:
            await connection.execute(text(f"drop database {name}"))

    def end(self):
        """Kill it; its directory goes, too."""
        self._guard.stop(keep_directory=False)


@pytest.fixture(scope="session")
def mariadb():
    """A MariaDB for the whole run, or a skip."""
    if shutil.which("mariadbd") is None or shutil.which("mariadb-install-db") is None:
        missing("mariadbd is not installed: the same tests ran on SQLite")
    server = MariaDb(Path(tempfile.mkdtemp(prefix="mpim-mariadb-")))
    yield server
    server.end()


@pytest.fixture(params=["memory", "file", "mariadb"])
async def database_url(request, tmp_path):
    """The URL of an empty database."""
    async with _database(request, tmp_path) as url:
        yield url


@pytest.fixture(params=["file", "mariadb"])
async def shared_database_url(request, tmp_path):
    """The URL of an empty database that several stores can open."""
    async with _database(request, tmp_path) as url:
        yield url


@contextlib.asynccontextmanager
async def _database(request, tmp_path):
    if request.param == "memory":
        yield "sqlite+aiosqlite:///:memory:"
    elif request.param == "file":
        yield f"sqlite+aiosqlite:///{tmp_path / 'chat.db'}"
    else:
        async with request.getfixturevalue("mariadb").database() as url:
            yield url


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
