"""WaitQueue: first come, first served, whatever else the callers do."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidParameter, PoolTimeout, QueueClosed
from mpim_lab.mq.connection.wait_queue import WaitQueue
from mpim_lab.mq.pool.pool import Pool

SLOTS = 2


class Shop:
    """So many slots, and callers that wait for one: who was served is `served`."""

    def __init__(self, slots=SLOTS, timeout_s=60.0):
        self.free, self.served, self.is_closed = slots, [], False
        self.queue = WaitQueue(lambda: self.free, self.refusal, timeout_s)
        self.inside = {}

    def refusal(self):
        return QueueClosed("closed") if self.is_closed else PoolTimeout("too long")

    async def call(self, name):
        """Wait for a slot unless there is one and nobody waits, and have it until `leave`."""
        if self.queue or self.free <= 0:
            await self.queue.wait()
        self.free -= 1
        self.served.append(name)
        self.inside[name] = asyncio.Event()
        try:
            await self.inside[name].wait()
        finally:
            del self.inside[name]
            self.free += 1
            self.queue.wake()

    def come(self, name):
        return asyncio.create_task(self.call(name))


async def ticks(count=10):
    for _ in range(count):
        await asyncio.sleep(0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "leave", "cancel", "wait"]), st.integers(0, 9)), max_size=40
)


@given(STEPS)
def test_in_any_order_of_events_nobody_is_overtaken_and_no_slot_is_lost(steps):
    """Callers come, leave, are cancelled while they wait, as they are woken, or with a slot."""

    async def play():
        shop, tasks = Shop(), []
        for step, which in steps:
            chosen = tasks[which % len(tasks)] if tasks else None
            if step == "come":
                tasks.append(shop.come(len(tasks)))
            elif step == "wait":
                await ticks(which)
            elif step == "cancel" and chosen is not None:
                chosen.cancel()
            elif shop.inside:
                list(shop.inside.values())[which % len(shop.inside)].set()
            assert 0 <= shop.free <= SLOTS
        await ticks(4 * len(tasks))
        assert shop.served == sorted(shop.served)
        assert not (shop.free and len(shop.queue)), "a slot is free, and somebody waits"
        while shop.inside:
            for done in shop.inside.values():
                done.set()
            await ticks(4 * len(tasks))
        left = [number for number, task in enumerate(tasks) if not task.cancelled()]
        assert set(left) <= set(shop.served)
        assert all(task.done() for task in tasks)

    asyncio.run(play())


async def test_who_waits_too_long_is_sent_away_and_the_others_keep_their_places():
    """Each caller has a time limit of its own, from when it came."""
    shop = Shop(slots=1, timeout_s=0.05)
    first, second = shop.come("first"), shop.come("second")
    with pytest.raises(PoolTimeout):
        await second
    third = shop.come("third")
    await ticks()
    shop.inside["first"].set()
    await ticks()
    assert (shop.served, len(shop.queue)) == (["first", "third"], 0)
    shop.inside["third"].set()
    await asyncio.gather(first, third)


async def test_closing_sends_everybody_away_who_waits_or_comes_later():
    """Who has a slot keeps it."""
    shop = Shop(slots=1)
    first, second = shop.come("first"), shop.come("second")
    await ticks()
    shop.is_closed = True
    shop.queue.close()
    with pytest.raises(QueueClosed):
        await second
    with pytest.raises(QueueClosed):
        await shop.call("third")
    shop.inside["first"].set()
    await first


@pytest.mark.parametrize("bounds", [{"max_connections": 0}, {"max_waiting": -1}])
def test_a_pools_bounds_are_refused_by_name(bounds):
    """At least one slot; fewer than none cannot wait."""
    with pytest.raises(
        InvalidParameter, match=r"max_connections=0: .* from 1|max_waiting=-1: .* from 0"
    ):
        Pool("redis://127.0.0.1:1", **bounds)
