"""Redis' own client sees what we publish, and we see what it publishes."""

import asyncio
import contextlib
import shutil
from urllib.parse import urlsplit

import pytest

from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.conftest import missing
from tests.support import wait_until


@pytest.fixture
def redis_cli(server):
    """The command line that talks to this server."""
    path = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if path is None:
        missing("redis-cli is not installed: on Debian and Ubuntu, apt-get install redis-tools")
    return [path, "-h", "127.0.0.1", "-p", str(urlsplit(server.url).port)]


async def test_redis_cli_subscribe_sees_what_we_publish(server, redis_cli):
    """Text in two languages goes over the wire as it is."""
    process = await asyncio.create_subprocess_exec(
        *redis_cli,
        "SUBSCRIBE",
        "user:1001",
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        async with MessageQueue(server.url) as mq:
            while not await mq.publish("user:1001", "晚上一起吃饭吗"):
                await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            lines = [(await process.stdout.readline()).decode().strip() for _ in range(6)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert lines[3:] == ["message", "user:1001", "晚上一起吃饭吗"]


async def test_we_see_what_redis_cli_publishes(server, redis_cli):
    """Any client may publish to our channels."""
    received = []
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", received.append)
        process = await asyncio.create_subprocess_exec(
            *redis_cli,
            "PUBLISH",
            "user:1001",
            "hello from redis-cli",
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        await wait_until(lambda: received)
    assert said.decode().strip() in ("1", "(integer) 1")
    assert [message.text for message in received] == ["hello from redis-cli"]
