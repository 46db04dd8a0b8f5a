"""Servers for tests: every test that takes `server` or `lab_server` runs on each server in MPIM_TEST_SERVERS."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

from mpim_lab.lab.server.embedded import EmbeddedServer

SERVERS = {"valkey": None, "redis": "redis-server"}
CHOSEN = os.environ.get("MPIM_TEST_SERVERS", "valkey").split(",")
if not set(CHOSEN) <= set(SERVERS):
    raise pytest.UsageError(
        f"MPIM_TEST_SERVERS={','.join(CHOSEN)}: must be one or several of {','.join(SERVERS)}"
    )

# How long an example takes says how busy the machine is.
settings.register_profile("mpim_lab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mpim_lab")


@pytest.fixture(params=CHOSEN)
def server_kind(request):
    """The name of the server that is tested; its tests are skipped where it is not installed."""
    binary = SERVERS[request.param]
    if binary is not None and shutil.which(binary) is None:
        missing(
            f"{binary} is not installed: `make test` runs the same tests on the embedded Valkey"
        )
    return request.param


@pytest.fixture
async def server(server_kind):
    """A server of this test's own.

    The Valkey that comes with us, or the one that MPIM_TEST_SERVERS names.
    """
    async with EmbeddedServer(SERVERS[server_kind]) as running:
        yield running


@pytest.fixture
async def one_server():
    """A Valkey of this test's own, where it makes no difference which server it is."""
    async with EmbeddedServer() as running:
        yield running


@pytest.fixture
def lab_server(server_kind, monkeypatch):
    """Have experiments, which open their own server, open this one."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    if binary := SERVERS[server_kind]:
        monkeypatch.setenv("MPIM_SERVER_BINARY", binary)


def pytest_collection_modifyitems(config, items):
    """Without Valkey only what depends on the server is run: the rest was run with it."""
    if "valkey" not in CHOSEN:
        others = [item for item in items if "server_kind" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def missing(reason):
    """Skip a test for something that is not installed.

    Where everything must be (CI with FULL set), fail.
    """
    if os.environ.get("MPIM_TEST_FULL"):
        pytest.fail(reason)
    pytest.skip(reason)
