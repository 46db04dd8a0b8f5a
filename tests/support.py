"""What tests share."""

import asyncio
from collections.abc import Callable


async def wait_until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for something that will become true; fails when it does not."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"did not become true within {within_s:g} s") from None
