"""MpimSystem: the whole system in a notebook, with a server of its own."""

import contextlib
from typing import Any, NoReturn, Self

from mpim_lab.errors import InvalidParameter, NotConnected
from mpim_lab.im.system import ImSystem
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer


class MpimSystem(ImSystem):
    """The whole instant-messaging system over the lab's server.

    Use it as a context: `async with MpimSystem(gateways=2) as mpim`. `server` can be killed, paused
    and started again, as far as it is ours.

    Args:
        server: one that is running already; None: one of its own that ends with the system, or the
            one that MPIM_REDIS_URL names.
        **options: as `ImSystem` takes them.

    Raises:
        InvalidParameter: an option makes no sense, or the system is open already.
        NotConnected: it is used before it is opened.
        ServerFailed: the server does not start.
    """

    def __init__(
        self, *, server: EmbeddedServer | ExternalServer | None = None, **options: Any
    ) -> None:
        self.server = server or open_server()
        self._is_ours, self._options = server is None, options
        self._life = contextlib.AsyncExitStack()

    def __getattr__(self, name: str) -> NoReturn:
        """Raise NotConnected for what is made when the server's address is known."""
        if name.startswith("_") or "services" in vars(self):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        raise NotConnected(f"not opened yet: write `async with {type(self).__name__}(…) as mpim:`")

    async def __aenter__(self) -> Self:
        if vars(self).get("_is_opened"):
            raise (
                self._not_open_error()
                if self._is_closed
                else InvalidParameter("the system is open already")
            )
        async with contextlib.AsyncExitStack() as stack:
            if self._is_ours:
                await stack.enter_async_context(self.server)
            super().__init__(self.server.url, **{"prefix": self.server.prefix} | self._options)
            await super().__aenter__()
            stack.push_async_exit(super().__aexit__)
            self._life = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._life.aclose()
