"""Version: which server it is, as far as it says so to a user with few rights, and whether the lab can work with it."""

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
                hello: Any = await client.execute_command("HELLO", "3")  # type: ignore[no-untyped-call, unused-ignore]
                found = {f"{hello['server']}_version": hello["version"]}
    except (RedisError, OSError) as error:
        raise NotConnected(f"the server does not answer: {error}") from error
    is_valkey = "valkey_version" in found
    return (
        f"Valkey {found['valkey_version']}"
        if is_valkey
        else f"Redis {found.get('redis_version', '?')}"
    )


async def unsupported_reason(client: Any) -> str:
    """Say why the lab cannot use a server of this kind; "" if it can, or if the server does not say what it is."""
    try:
        hello: Any = await client.execute_command("HELLO", "3")
    except ResponseError as error:
        is_unknown = "unknown command" in str(error)
        return (
            f"it speaks no RESP3 ({error}): the lab needs Redis 7.0 or newer, or any Valkey"
            if is_unknown
            else ""
        )
    said = (
        {_text(name): _text(value) for name, value in hello.items()}
        if isinstance(hello, dict)
        else {}
    )
    if said.get("mode") in ("cluster", "sentinel"):
        return f"it runs in {said['mode']} mode: the lab needs a standalone server"
    return (
        "it is a replica, which takes no writes: name its primary"
        if said.get("role") == "replica"
        else ""
    )


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def too_old(version: str) -> bool:
    """Whether the lab needs a newer server: Redis 7.0 at least; every Valkey is one.

    >>> [too_old(version) for version in ("Redis 6.2.14", "Redis 7.0.0", "Redis 8.2.1", "Valkey 7.2.5", "Redis ?")]
    [True, False, False, False, False]
    """
    name, _, number = version.partition(" ")
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    return name == "Redis" and bool(parts) and parts < LEAST_REDIS
