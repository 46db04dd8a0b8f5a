"""Version: which server it is, as far as it says so, and whether the lab can work with it."""

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from mpim_lab.errors import NotConnected

LEAST_REDIS = (7, 0)


async def server_version(url: str) -> str:
    """Name and version of the server, e.g. "Valkey 9.1.2" or "Redis 7.0.15". Raise NotConnected.

    INFO says it best: Valkey calls itself Redis 7.2.4 as well, for the sake of old clients. Whoever
    may not ask for that may still greet it (HELLO).
    """
    try:
        async with Redis.from_url(
            url, protocol=3, decode_responses=True, socket_timeout=5
        ) as client:
            try:
                found: Any = await client.info("server")
            except ResponseError:
                untyped: Any = client
                hello = await untyped.execute_command("HELLO", "3")
                found = {f"{hello['server']}_version": hello["version"]}
    except (RedisError, OSError) as error:
        raise NotConnected(f"the server does not answer: {error}") from error
    if valkey := found.get("valkey_version"):
        return f"Valkey {valkey}"
    return f"Redis {found.get('redis_version', '?')}"


async def unsupported_reason(client: Any) -> str:
    """Say why the lab cannot use a server of this kind; "" if it can, or if it does not say."""
    try:
        hello: Any = await client.execute_command("HELLO", "3")
    except ResponseError as error:
        if "unknown command" not in str(error):
            return ""
        return f"it speaks no RESP3 ({error}): the lab needs Redis 7.0 or newer, or any Valkey"
    fields = hello.items() if isinstance(hello, dict) else ()
    found = {_text(name): _text(value) for name, value in fields}
    if found.get("mode") in ("cluster", "sentinel"):
        return f"it runs in {found['mode']} mode: the lab needs a standalone server"
    if found.get("role") == "replica":
        return "it is a replica, which takes no writes: name its primary"
    return ""


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def too_old(version: str) -> bool:
    """Whether the lab needs a newer server: Redis 7.0 at least; every Valkey is one.

    >>> versions = ("Redis 6.2.14", "Redis 7.0.0", "Redis 8.2.1", "Valkey 7.2.5", "Redis ?")
    >>> [too_old(version) for version in versions]
    [True, False, False, False, False]
    """
    name, _, number = version.partition(" ")
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    return name == "Redis" and bool(parts) and parts < LEAST_REDIS
