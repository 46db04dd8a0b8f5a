"""Control: what an operator does to a running server, each over a short connection of its own."""

import contextlib
from collections.abc import AsyncIterator, Iterator

from mpim_lab.errors import CommandRejected, FaultUnavailable
from mpim_lab.mq.connection.address import Address, sanitize_client_name
from mpim_lab.mq.connection.reconnecting import ReconnectingConnection

_NEVER_SHARED_BYTES = str(2**30)


@contextlib.asynccontextmanager
async def controlling(url: str) -> AsyncIterator[ReconnectingConnection]:
    """A connection for control commands.

    Raises NotConnected, LoginRejected, or FaultUnavailable for want of a right.
    """
    link = ReconnectingConnection(Address.parse(url), name="control")
    try:
        await link.open()
        with rights_needed():
            yield link
    finally:
        await link.close()


@contextlib.contextmanager
def rights_needed() -> Iterator[None]:
    """Say of a command that this user may not run that what it was for is unavailable.

    Raises FaultUnavailable.
    """
    try:
        yield
    except CommandRejected as error:
        if error.code != "NOPERM":
            raise
        raise FaultUnavailable(
            f"the server's operator does not let this user do it: {error}"
        ) from error


async def cut_connections(url: str, name: str) -> int:
    """Cut every connection of the client called `name` (CLIENT KILL); gives how many there were."""
    async with controlling(url) as link:
        listed = bytes(await link.call("CLIENT", "LIST")).decode()
        found = [
            dict(word.partition("=")[::2] for word in line.split()) for line in listed.splitlines()
        ]
        ids = [client["id"] for client in found if client["name"] == sanitize_client_name(name)]
        for number in ids:
            await link.call("CLIENT", "KILL", "ID", number)
        return len(ids)


async def limit_output_buffer(url: str, max_bytes: int) -> None:
    """Let the server cut off a subscriber once `max_bytes` wait for it (its default is 32 MiB)."""
    async with controlling(url) as link:
        await link.call("CONFIG", "SET", "client-output-buffer-limit", f"pubsub {max_bytes} 0 0")
        with contextlib.suppress(CommandRejected):
            # Valkey 9 shares payloads of 16 KiB and more between buffers and does not count them: a
            # subscriber of such messages is never cut off, however far behind. Measured on 9.1.2;
            # Redis 7.0 counts them. Count them here.
            await link.call(
                "CONFIG", "SET", "min-string-size-avoid-copy-reply", _NEVER_SHARED_BYTES
            )
