"""What tests share."""

import asyncio
import contextlib
from collections.abc import Callable

from sqlalchemy import event


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
