"""A pool on a real server, used, cancelled, cut and paused in any order.

What is taken is given back, whatever happens.
"""

import asyncio
import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mpim_lab.errors import MpimError
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.pool import Pool
from tests.pools import connections, kept

PLACES, MAX_WAITING, IN_TIME_S = 2, 3, 10
SHORT = {
    "acquire_timeout_s": 0.3,
    "call_timeout_s": 0.2,
    "connect_timeout_s": 0.2,
    "close_timeout_s": 0.2,
}
USES = ("echo", "transaction", "blocking", "dirty", "error", "idle")


class PoolSchedules(RuleBasedStateMachine):
    """Callers come, use their connection in some way, leave or are cancelled.

    The server is cut off or stopped meanwhile.
    """

    callers = Bundle("callers")

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.tasks, self.is_paused = [], False
        self.runner.run(self.begin())

    async def begin(self):
        self.server = EmbeddedServer()
        await self.server.start()
        options = {
            "check_idle_after_s": 0.05,
            "backoff": Backoff(initial_s=0.01, max_s=0.02),
            **SHORT,
        }
        self.pool = Pool(
            self.server.url, max_connections=PLACES, max_waiting=MAX_WAITING, **options
        )
        await self.pool.__aenter__()

    async def use(self, how, until):
        """One caller, from its asking to its leaving."""
        async with self.pool.connection() as connection:
            if how == "echo":
                assert await connection.call("ECHO", "mine") == b"mine"
            elif how == "transaction":
                await connection.call("WATCH", "k")
                await connection.transaction([("INCR", "n"), ("INCR", "n")])
            elif how == "blocking":
                await connection.call("BLPOP", "none", 0.05)
            elif how == "dirty":
                await connection.call("MULTI")
            elif how == "error":
                await connection.call("LPUSH", "n", "x")
            await until.wait()

    @rule(target=callers, how=st.sampled_from(USES))
    def come(self, how):
        async def start():
            until = asyncio.Event()
            self.tasks.append(asyncio.create_task(self.use(how, until)))
            return self.tasks[-1], until

        return self.runner.run(start())

    @rule(caller=consumes(callers))
    def leave(self, caller):
        caller[1].set()

    @rule(caller=callers)
    def cancel(self, caller):
        caller[0].cancel()

    @rule(turns=st.integers(1, 30))
    def turn(self, turns):
        """The loop goes on for so many iterations."""

        async def turn():
            for _ in range(turns):
                await asyncio.sleep(0)

        self.runner.run(turn())

    @rule()
    def wait(self):
        self.runner.run(asyncio.sleep(0.06))

    @rule()
    def cut(self):
        """The server ends every connection."""
        if not self.is_paused:
            self.runner.run(cut_connections(self.server.url, "pool"))

    @rule()
    def pause(self):
        (self.server.resume if self.is_paused else self.server.pause)()
        self.is_paused = not self.is_paused

    @invariant()
    def no_more_are_taken_than_there_are(self):
        figures = self.pool.stats()
        assert figures.in_use <= PLACES and figures.waiting <= MAX_WAITING
        assert figures.opened - sum(figures.closed.values()) <= PLACES

    def teardown(self):
        try:
            self.runner.run(self.end())
        finally:
            self.server.resume()
            self.runner.run(self.server.stop())
            self.runner.close()

    async def end(self):
        """Everybody leaves.

        Nothing is out, the next caller is served, and after the end nothing is open.
        """
        async with asyncio.timeout(IN_TIME_S):
            for task in self.tasks[::2]:
                task.cancel()
            if self.is_paused:
                self.server.resume()
            for task in self.tasks:
                await asyncio.wait([task], timeout=0.05)
                task.cancel()  # those that wait to be told to leave
            outcomes = await asyncio.gather(*self.tasks, return_exceptions=True)
            assert all(
                isinstance(each, MpimError | asyncio.CancelledError | None) for each in outcomes
            ), outcomes
            assert kept(self.pool.stats()) and not self.pool.stats().waiting
            while True:  # a server that was stopped is passed over for a moment
                with contextlib.suppress(MpimError):
                    async with self.pool.connection() as connection:
                        assert await connection.call("ECHO", "next") == b"next"
                        break
                await asyncio.sleep(0.01)
            await self.pool.close()
            assert kept(self.pool.stats()) and not self.pool.stats().idle
            while await connections(self.server.url):
                await asyncio.sleep(0.01)


TestPoolSchedules = PoolSchedules.TestCase
TestPoolSchedules.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
