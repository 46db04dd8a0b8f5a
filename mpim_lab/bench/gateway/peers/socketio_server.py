"""python-socketio with its Redis manager behind uvicorn: one process, one room a user.

Says {"port": …, "pid": …} when it listens; ends on SIGTERM. PEER_REDIS_URL and PEER_CHANNEL come by
the environment.
"""

import gc
import json
import os
import socket
from typing import Any

BACKLOG = 2_048
# As it comes, Python looks at everything that 10,000 clients hold, again and again: pauses of a
# second, half of the rate.
COLLECT_EVERY = (50_000, 50, 1_000)
MAX_CONNECTIONS, WAIT_S = 10, 60  # to Redis: more of them made it slower


def bounded_manager(url: str, channel: str) -> Any:
    """The Redis manager with a bounded pool of connections.

    As it comes, each of 200 messages at a time opens a connection of its own, some of them fail, it
    begins with a new pool, and falls to a tenth of its rate: that would be no comparison.
    """
    # Here, as a peer need not be installed for its module to be looked at.
    import socketio  # type: ignore[import-untyped]
    from redis.asyncio import BlockingConnectionPool, Redis

    class BoundedRedisManager(socketio.AsyncRedisManager):  # type: ignore[misc]
        def _redis_connect(self) -> None:
            pool = BlockingConnectionPool.from_url(
                self.redis_url, max_connections=MAX_CONNECTIONS, timeout=WAIT_S
            )
            self.redis = Redis(connection_pool=pool)
            self.pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
            self.connected = True

    return BoundedRedisManager(url, channel=channel)


def chat_server(url: str, channel: str) -> Any:
    """A server that knows the four things the load asks for: send, join, say, notice."""
    import socketio

    redis = bounded_manager(url, channel)
    server = socketio.AsyncServer(async_mode="asgi", client_manager=redis, transports=["websocket"])

    async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str]) -> None:
        await server.enter_room(sid, f"user:{auth['uid']}")

    async def send(sid: str, message: dict[str, str]) -> dict[str, str]:
        await server.emit(
            "push", {"id": message["id"], "text": message["text"]}, room=f"user:{message['to']}"
        )
        return {"id": message["id"]}

    async def join(sid: str, wish: dict[str, str]) -> dict[str, str]:
        await server.enter_room(sid, f"group:{wish['group']}")
        return wish

    async def say(sid: str, message: dict[str, str]) -> dict[str, str]:
        pushed = {"id": message["id"], "text": message["text"]}
        await server.emit("push", pushed, room=f"group:{message['group']}", skip_sid=sid)
        return {"id": message["id"]}

    async def notice(sid: str, notice: dict[str, str]) -> None:
        await server.emit("notice", notice)

    for handler in (connect, send, join, say, notice):
        server.on(handler.__name__, handler)
    return server


def main() -> None:
    """Listen on a free port of this machine, say which, and serve."""
    import socketio
    import uvicorn

    gc.set_threshold(*COLLECT_EVERY)
    app = socketio.ASGIApp(chat_server(os.environ["PEER_REDIS_URL"], os.environ["PEER_CHANNEL"]))
    ears = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        log_level="warning",
        backlog=BACKLOG,
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)
    print(json.dumps({"port": ears.getsockname()[1], "pid": os.getpid()}), flush=True)
    server.run(sockets=[ears])  # on uvloop, where it is installed


if __name__ == "__main__":
    main()
