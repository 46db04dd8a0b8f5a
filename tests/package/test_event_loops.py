"""A queue belongs to one event loop, thread and process.

Anywhere else it is refused by name, and nothing is sent.
"""

import asyncio
import os

import pytest
import uvloop

from mpim_lab import MessageQueue
from mpim_lab.errors import WrongLoop

CALLS = {
    "publish": lambda mq: mq.publish("a", b"x"),
    "subscribe": lambda mq: mq.subscribe("a", print),
    "unsubscribe": lambda mq: mq.unsubscribe("a"),
    "listen": lambda mq: mq.listen("a").__aenter__(),
    "subscriber_count": lambda mq: mq.subscriber_count("a"),
    "drain": lambda mq: mq.drain(),
    "add": lambda mq: mq.stream("s").add(b"x"),
    "add_many": lambda mq: mq.stream("s").add_many([b"x"]),
    "read": lambda mq: mq.stream("s").read(),
    "group": lambda mq: mq.stream("s").group("g"),
    "open": lambda mq: mq.open(),
    "close": lambda mq: mq.close(),
}


async def refused(call):
    with pytest.raises(WrongLoop) as caught:
        async with asyncio.timeout(5):
            await call
    assert caught.value.definite


async def opened(url):
    mq = MessageQueue(url)
    await mq.open()
    await mq.subscribe("a", lambda message: None)
    await mq.publish("a", b"1")
    return mq


async def in_a_thread(function):
    """Run plain code in a thread while this loop goes on; what it raises is raised here."""
    await asyncio.wait_for(asyncio.to_thread(function), 30)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
async def test_a_queue_that_was_opened_in_a_loop_that_is_over_is_refused(one_server, name, run):
    """A queue made at module level and used in a second `asyncio.run`."""

    def both():
        mq = run(opened(one_server.url))
        run(refused(CALLS[name](mq)))

    await in_a_thread(both)


@pytest.mark.parametrize("name", CALLS)
async def test_a_queue_that_another_threads_loop_uses_is_refused_there_and_goes_on_here(
    one_server, name
):
    """Its owner is not disturbed."""
    async with await opened(one_server.url) as mq:
        await in_a_thread(lambda: asyncio.run(refused(CALLS[name](mq))))
        assert await mq.publish("a", b"2") == 1


async def test_two_loops_that_take_turns_in_one_thread_are_told_apart(one_server):
    """The first one stands still and is not closed.

    What is written to it would leave some time later.
    """

    def both():
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        mq = first.run_until_complete(opened(one_server.url))
        for name in ("publish", "add", "subscribe", "close"):
            second.run_until_complete(refused(CALLS[name](mq)))
        assert first.run_until_complete(mq.publish("a", b"2")) == 1
        first.run_until_complete(mq.close())
        first.close()
        second.close()

    await in_a_thread(both)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_forked_child_cannot_write_between_its_parents_commands(one_server):
    """The socket is the parent's; the child is told, and the parent goes on."""
    async with await opened(one_server.url) as mq:

        def child():
            asyncio.events._set_running_loop(None)
            for name in CALLS:
                asyncio.run(refused(CALLS[name](mq)))

        pid = os.fork()
        if not pid:
            status = 1
            try:
                child()
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0
        assert await mq.publish("a", b"2") == 1
