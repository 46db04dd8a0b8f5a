"""Closing a WebSocket for certain: a gateway's and a client's."""

import asyncio

from websockets.asyncio.connection import Connection

# RFC 6455, section 7.4.1, and its registry
GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER = 1001, 1008, 1013
_CLOSE_TIMEOUT_S = 2.0


async def close_or_abort(
    ws: Connection, code: int, reason: str, timeout_s: float = _CLOSE_TIMEOUT_S
) -> None:
    """Close a WebSocket; abort it if the other end does not answer in time.

    | the other end ...                      | then                                       |
    |----------------------------------------|--------------------------------------------|
    | closes as well                         | returns                                    |
    | reads or sends nothing for `timeout_s` | the socket is released without its consent |
    | and the caller is cancelled meanwhile  | the same, at once                          |
    """
    try:
        await asyncio.sleep(0)  # what was sent leaves first
        async with asyncio.timeout(timeout_s):
            await ws.close(code, reason.encode(errors="replace")[:100].decode(errors="ignore"))
    except TimeoutError:
        pass
    finally:
        ws.transport.abort()
