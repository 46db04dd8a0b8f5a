"""What tests share."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable

from sqlalchemy import event

from mpim_lab.mq.connection.address import Address

# How often a test does what must come out the same each time, and with how many seeds: once in
# `make test`.
REPEATS = int(os.environ.get("MPIM_TEST_REPEATS", "1"))


async def wait_until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for something that will become true; fails when it does not."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"did not become true within {within_s:g} s") from None


@contextlib.contextmanager
def statement_that_fails(store, word, after=0):
    """The database refuses statements that begin like this, once `after` of them were run."""
    seen = []

    def refuse(connection, cursor, statement, *_):
        if statement.startswith(word):
            seen.append(statement)
            if len(seen) > after:
                cursor.execute("this is no statement")

    engine = store._engine.sync_engine
    event.listen(engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", refuse)


@contextlib.asynccontextmanager
async def tls_relay(url, context):
    """A TLS end before the server at `url`; gives its port on loopback."""
    address = Address.parse(url)

    async def pump(source, sink):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader, writer):
        behind, ahead = await asyncio.open_connection(address.host, address.port)
        await asyncio.gather(pump(reader, ahead), pump(behind, writer))

    end = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield end.sockets[0].getsockname()[1]
    end.close()
