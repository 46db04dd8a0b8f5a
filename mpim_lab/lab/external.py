"""ExternalServer: the reader's own server, by URL. The lab leaves nothing behind on it and does not touch its process."""

import secrets
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mpim_lab.errors import FaultUnavailable, ServerFailed
from mpim_lab.mq.address import Address

_REASONS = {
    "kill": "kill it",
    "pause": "pause it",
    "limit": "change its settings",
}


class ExternalServer:
    """A server that was there before us. Every key and channel carries `prefix`, new for each lab.

    Raises ServerFailed when it cannot be reached.
    """

    unix_url = None

    def __init__(self, url: str) -> None:
        self.url, self._address = url, Address.parse(url)
        self.prefix = f"lab-{secrets.token_hex(4)}:"

    @property
    def is_running(self) -> bool:
        """Not ours to know; it answered when we started."""
        return True

    async def start(self) -> None:
        """Make sure that it answers."""
        try:
            async with Redis.from_url(self.url, protocol=3) as client:
                await client.ping()
        except (RedisError, OSError) as error:
            raise ServerFailed(f"MPIM_REDIS_URL is {self._address}, and it does not answer: {error}") from error

    async def stop(self) -> None:
        """Remove every key with our prefix; channels leave nothing."""
        async with Redis.from_url(self.url, protocol=3) as client:
            keys = [key async for key in client.scan_iter(match=f"{self.prefix}*", count=1_000)]
            if keys:
                await client.unlink(*keys)

    async def restart(self) -> None:
        """Not ours to do: raises FaultUnavailable."""
        raise FaultUnavailable(self._refusal("restart it"))

    def kill(self) -> None:
        """Not ours to do: raises FaultUnavailable."""
        raise FaultUnavailable(self.unavailable("kill"))

    def pause(self) -> None:
        """Not ours to do: raises FaultUnavailable."""
        raise FaultUnavailable(self.unavailable("pause"))

    def resume(self) -> None:
        """Not ours to do: raises FaultUnavailable."""
        raise FaultUnavailable(self.unavailable("pause"))

    def unavailable(self, fault: str) -> str | None:
        """Why a fault ("kill", "pause", "limit") is not offered; None if it is."""
        return self._refusal(_REASONS[fault]) if fault in _REASONS else None

    def _refusal(self, deed: str) -> str:
        return (
            f"the server at {self._address} is yours: the lab does not {deed}; unset MPIM_REDIS_URL for a private one"
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()
