"""Load with many channels, or with many subscribers to one."""

import contextlib

import pytest
from redis.asyncio import Redis

from mpim_lab.errors import InvalidParameter, LoadFailed
from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.load.load import measure, start_load


@contextlib.asynccontextmanager
async def asking(server):
    """A client of the test's own."""
    async with Redis.from_url(
        server.url, protocol=3, driver_info=None, decode_responses=True
    ) as client:
        yield client


async def test_messages_to_many_channels_all_arrive(server):
    """Each goes to one of the channels; the receiver hears every one of them."""
    load = start_load(server.url, channels=2_500, messages=5_000, offered_per_s=10_000)
    async with asking(server) as client:

        async def is_listening():
            return load.done or len(await client.pubsub_channels("load:*")) == 2_500

        await wait_until(is_listening, "2,500 channels")
        assert not load.done
    result = await load.result()
    assert (result.sent, result.received, result.lost, result.duplicates) == (5_000, 5_000, 0, 0)
    assert (result.channels, result.subscribers, result.deliveries_per_s) == (
        2_500,
        1,
        result.messages_per_s,
    )
    assert result.ready_s > 0


async def test_every_subscriber_gets_every_message(server):
    """A message counts once the last of them has it; the deliveries are those of all together."""
    result = await measure(server.url, subscribers=40, messages=500, tasks=4)
    assert (result.sent, result.received, result.lost, result.duplicates) == (500, 500, 0, 0)
    assert (
        result.deliveries_per_s == pytest.approx(40 * result.messages_per_s)
        and result.subscribers == 40
    )
    assert 0 < result.p50_ms <= result.p99_ms <= result.max_ms


async def test_a_subscriber_that_is_cut_off_ends_the_load(server):
    """With the reason; the others do not pass for all of them."""
    load = start_load(server.url, subscribers=20, offered_per_s=500, seconds=30.0)
    async with asking(server) as client:

        async def is_listening():
            return load.done or len(await client.client_list(_type="pubsub")) == 20

        await wait_until(is_listening, "20 subscribers")
        [first, *_] = await client.client_list(_type="pubsub")
        await client.client_kill(first["addr"])
    with pytest.raises(LoadFailed, match="the line broke"):
        await load.result()


async def test_a_server_that_takes_no_more_subscribers_ends_the_load(server):
    """The server's own words are the reason."""
    async with asking(server) as client:
        await client.config_set("maxclients", 30)
        with pytest.raises(LoadFailed, match=r"max number of clients|line broke|reset"):
            await measure(server.url, subscribers=100, messages=10)


@pytest.mark.parametrize(
    ("who", "options"),
    [
        ("mpim_lab", {"channels": 2, "subscribers": 2}),
        ("streams:mpim_lab", {"channels": 2}),
        ("batching:mpim_lab", {"subscribers": 2}),
        ("mpim_lab", {"channels": 0}),
        ("mpim_lab", {"subscribers": 1_000_000}),
    ],
)
async def test_what_cannot_grow_is_refused(who, options):
    """Before any process starts."""
    with pytest.raises(InvalidParameter, match=r"channels|subscribers"):
        start_load("redis://127.0.0.1:1/0", who, **options)
