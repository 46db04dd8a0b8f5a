"""The bare protocol: the least that can publish and receive fast. A measuring stick, not a client.

It joins the commands of one loop turn and matches replies in order, and that is all: no
reconnecting, no limits, no time-outs, no named errors. What `mpim_lab.mq` adds to that is what its
robustness costs.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from mpim_lab.mq.connection.address import Address

_END = object()


class MinimalClient(asyncio.Protocol):
    """One RESP3 connection. Every reply that is not a push answers the oldest command."""

    def __init__(self, on_payload: Callable[[bytes], None] | None = None) -> None:
        self.subscribed: asyncio.Future[Exception | None] = (
            asyncio.get_running_loop().create_future()
        )
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._on_payload = on_payload
        self._loop = asyncio.get_running_loop()
        self._gather: list[bytes] = []
        self._unanswered: deque[asyncio.Future[Any]] = deque()
        self._replies = hiredis.Reader(notEnoughData=_END)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its type

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, and with it whatever had no answer."""
        reason = ConnectionResetError(f"the line broke: {exc or 'the server closed it'}")
        self.lost.set_result(reason)
        if not self.subscribed.done():
            self.subscribed.set_result(reason)
        for future in self._unanswered:
            if not future.done():
                future.set_exception(reason)

    def command(self, *words: bytes | str) -> asyncio.Future[Any]:
        """Send one command with all others of this loop turn; the future is its reply."""
        if not self._gather:
            self._loop.call_soon(self._write)
        self._gather.append(hiredis.pack_command(words))  # type: ignore[arg-type]
        answer = self._loop.create_future()
        self._unanswered.append(answer)
        return answer

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        """Publish; the reply is the number of receivers."""
        return self.command(b"PUBLISH", channel, payload)

    def subscribe(self, channel: str) -> None:
        """Ask for a channel; `subscribed` gives None once it is confirmed, or the error."""
        packed = hiredis.pack_command((b"SUBSCRIBE", channel))  # type: ignore[arg-type]
        self.transport.write(packed)

    def _write(self) -> None:
        self.transport.write(b"".join(self._gather))
        self._gather.clear()

    def data_received(self, data: bytes) -> None:
        """Hand replies to whoever is next, messages to `on_payload`."""
        self._replies.feed(data)
        next_reply, answers, on_payload = self._replies.gets, self._unanswered, self._on_payload
        while (reply := next_reply()) is not _END:
            if type(reply) is not hiredis.PushNotification:
                (answers.popleft() if answers else self.subscribed).set_result(reply)
            elif on_payload is not None and reply[0] == b"message":
                on_payload(reply[2])
            elif not self.subscribed.done():
                self.subscribed.set_result(None)


async def connect(url: str, on_payload: Callable[[bytes], None] | None = None) -> MinimalClient:
    """Connect and log in; `on_payload` gets every payload that is pushed."""
    address = Address.parse(url)
    client = MinimalClient(on_payload)
    await address.connect(lambda: client)
    for command in address.handshake_commands("load"):
        reply = await client.command(*command)
        if isinstance(reply, Exception):
            raise reply
    return client
