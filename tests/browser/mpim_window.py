"""A system for the browser's tests, the addresses through which pages reach it, and what a user does in a window."""

import asyncio
import contextlib
import re
import threading

from mpim_lab.im.system import ImSystem
from mpim_lab.lab.server.embedded import EmbeddedServer

WITHIN_S = 30


class Front:
    """One address before the gateways, as a load balancer is.

    Who connects is taken to `first`, or to another one.
    """

    def __init__(self, mpim, first):
        self._mpim, self._first = mpim, first
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        self.cut()

    def cut(self):
        """Pull the cable of everybody who came through here."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry(self, reader, writer):
        gateways = self._mpim.gateways
        gateway = gateways.get(self._first) or next(iter(gateways.values()), None)
        try:
            from_gateway, to_gateway = await asyncio.open_connection(
                "127.0.0.1", gateway.port if gateway else 1
            )
        except OSError:
            return writer.close()
        both = {writer, to_gateway}
        self._writers |= both
        await asyncio.gather(self._copy(reader, to_gateway), self._copy(from_gateway, writer))
        self._writers -= both

    async def _copy(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


class Hall:
    """A system of two gateways, on a thread of its own.

    Playwright's plain interface has this one.
    """

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        self.do(self._open())
        return self

    def __exit__(self, *exc_info):
        self.do(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN_S)
        self._loop.close()

    async def _open(self):
        server = await self._stack.enter_async_context(EmbeddedServer())
        database = "sqlite+aiosqlite:///:memory:"
        mpim = ImSystem(server.url, gateways=2, database=database, allow_login=True)
        self.mpim = await self._stack.enter_async_context(mpim)
        self.fronts = [
            await self._stack.enter_async_context(Front(mpim, name)) for name in ("gw-1", "gw-2")
        ]

    def do(self, work):
        """Have something done there; gives what it gives."""
        return self.begin(work).result(WITHIN_S)

    def begin(self, work):
        """Have something done there, meanwhile; its `result(seconds)` comes later."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def join(self, group, uid, text, id=None):
        """Somebody joins a group, says something there, under an id if one is given, and is gone."""
        async with self.mpim.client(uid) as client:
            await client.join(group)
            await client.send_to_group(group, text, id=id)

    def cut(self, number):
        """Pull the cables of whoever came through this front."""
        self._loop.call_soon_threadsafe(self.fronts[number].cut)


class Window:
    """One user's window: what a user does, and sees."""

    def __init__(self, page):
        self.page, self.see = page, page.get_by_test_id

    def open(self, url, uid):
        self.page.goto(f"{url}?user={uid}")
        self.is_connected_to("gw-")
        return self

    def log_in(self, url, uid):
        self.page.goto(url)
        self.see("login-name").fill(uid)
        self.see("login-button").click()
        self.is_connected_to("gw-")
        return self

    def is_connected_to(self, gateway):
        expect(self.see("gateway")).to_contain_text(f"connected to {gateway}", timeout=15_000)

    def talk_to(self, uid):
        self.see("new-person").fill(uid)
        self.see("new-person-button").click()

    def create_group(self, group, members):
        self.see("new-group").fill(group)
        self.see("new-group-members").fill(members)
        self.see("new-group-button").click()
        expect(self.conversation(f"#{group}")).to_have_attribute("aria-current", "true")

    def conversation(self, name):
        return self.page.locator(f'[data-testid=conversation][data-name="{name}"]')

    def say(self, *texts):
        for text in texts:
            self.see("composer").fill(text)
            self.see("send").click()

    def presence_of(self, uid, status):
        expect(self.page.locator(f'[data-testid=presence][data-uid="{uid}"]')).to_have_attribute(
            "data-status", status
        )

    def members_are(self, *uids):
        """Nobody else, and no "and others"; how many there are stands beside the name."""
        expect(self.page.locator("#pane-name")).to_contain_text(f"· {len(uids)} member")
        expect(self.page.locator("#pane-people > span")).to_have_count(len(uids))
        expect(self.see("member")).to_have_text([re.compile(rf"^{uid}\b|^me\b") for uid in uids])

    def numbered(self, count):
        """(number, text) of everything said, once there are `count` messages and none of them is on its way."""
        expect(self.see("message")).to_have_count(count, timeout=15_000)
        unfinished = '[data-testid=message]:not([data-state="kept"],[data-state="received"])'
        expect(self.page.locator(unfinished)).to_have_count(0, timeout=15_000)
        read = "all => all.map(one => [Number(one.dataset.sequence), one.querySelector('.text').textContent])"
        return [tuple(pair) for pair in self.see("message").evaluate_all(read)]


def expect(seen):
    """Playwright's `expect`, looked up when it is needed: it need not be installed."""
    from playwright.sync_api import expect

    return expect(seen)
