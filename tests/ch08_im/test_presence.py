"""Presence on a server.

Where users are connected, told truly, whoever comes, goes, dies or comes late.
"""

import asyncio
import contextlib

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.im.protocol.requests import BindRouteRequest, DeliverRequest
from mpim_lab.im.services.presence import Presence, Route
from mpim_lab.keys import Keys, gateway_channel, status_channel, user_channel
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until


@pytest.fixture
async def queue(server):
    async with MessageQueue(server.url) as opened:
        yield opened


@pytest.fixture
async def presence(queue):
    return Presence(queue, ttl_s=60)


def at(gateway, connection="c1", uid="alice", device="phone"):
    return BindRouteRequest(uid, device, gateway, connection)


@contextlib.asynccontextmanager
async def heard(queue, *channels):
    """What is told on these channels, in order, as (channel, text)."""
    told = []
    for channel in channels:
        await queue.subscribe(channel, lambda message: told.append((message.channel, message.text)))
    yield told
    for channel in channels:
        await queue.unsubscribe(channel)


async def until_ended(presence, uid):
    async with asyncio.timeout(5):
        while await presence.query_route(uid):
            await asyncio.sleep(0.01)


async def test_a_bound_route_is_found_until_it_is_unbound(presence):
    """Who is not bound is nowhere; a second unbind finds nothing."""
    assert await presence.query_route("alice") == []
    assert (await presence.bind_route(at("gw-1"))).replaced == ()
    assert await presence.query_route("alice") == [Route("phone", "gw-1", "c1")]
    assert await presence.unbind_route(at("gw-1")) and not await presence.unbind_route(at("gw-1"))
    assert await presence.query_route("alice") == []


async def test_a_user_has_a_route_for_each_device(presence):
    """At one gateway or at several; one that goes leaves the others."""
    routes = [at("gw-1"), at("gw-1", "c2", device="laptop"), at("gw-2", "c3", device="watch")]
    for route in routes:
        assert (await presence.bind_route(route)).replaced == ()
    assert {each.device for each in await presence.query_route("alice")} == {
        "phone",
        "laptop",
        "watch",
    }
    await presence.unbind_route(routes[1])
    assert {each.device for each in await presence.query_route("alice")} == {"phone", "watch"}


async def test_the_same_device_replaces_its_older_connection_whose_gateway_is_told(presence, queue):
    """The device is at one place; the old gateway hears which connection it may close."""
    async with heard(queue, gateway_channel("gw-1"), gateway_channel("gw-2")) as told:
        await presence.bind_route(at("gw-1", "c1"))
        assert (await presence.bind_route(at("gw-2", "c2"))).replaced == ("gw-1 c1",)
        assert await presence.query_route("alice") == [Route("phone", "gw-2", "c2")]
        await wait_until(lambda: told)
    assert told == [("gateway:gw-1", "replaced c1")]


async def test_a_device_whose_name_begins_like_another_replaces_nothing(presence):
    """Names are compared whole."""
    await presence.bind_route(at("gw-1", "c1", device="phone"))
    assert (await presence.bind_route(at("gw-1", "c2", device="phone2"))).replaced == ()
    assert (await presence.bind_route(at("gw-1", "c3", device="phon."))).replaced == ()
    assert len(await presence.query_route("alice")) == 3


async def test_binding_the_same_connection_twice_is_binding_it_once(presence):
    """A bind whose answer was lost is done again."""
    await presence.bind_route(at("gw-1"))
    assert (await presence.bind_route(at("gw-1"))).replaced == ()
    assert await presence.query_route("alice") == [Route("phone", "gw-1", "c1")]


async def test_a_late_unbind_by_the_old_gateway_leaves_the_new_ones_route(presence, queue):
    """Compare and delete; and nobody is told that she went, for she did not."""
    async with heard(queue, status_channel("alice")) as told:
        await presence.bind_route(at("gw-1", "c1"))
        await presence.bind_route(at("gw-2", "c2"))
        assert not await presence.unbind_route(at("gw-1", "c1"))
        assert not await presence.unbind_route(at("gw-1", "c2"))
        assert not await presence.unbind_route(at("gw-2", "c1"))
        assert await presence.query_route("alice") == [Route("phone", "gw-2", "c2")]
        await wait_until(lambda: len(told) == 2)
    assert told == [("user:status:alice", "online:gw-1"), ("user:status:alice", "online:gw-2")]


async def test_fifty_connections_of_one_device_at_once_leave_one_route(presence):
    """Each step is atomic: 49 are replaced, each once."""
    answers = await asyncio.gather(
        *(presence.bind_route(at(f"gw-{n % 3}", f"c{n}")) for n in range(50))
    )
    replaced = [each for answer in answers for each in answer.replaced]
    (last,) = await presence.query_route("alice")
    assert (
        len(replaced) == len({*replaced}) == 49
        and f"{last.gateway} {last.connection}" not in replaced
    )


async def test_whoever_watches_is_told_of_coming_and_of_the_last_going(presence, queue):
    """One device of two that goes is no news."""
    async with heard(queue, status_channel("alice"), status_channel("bob")) as told:
        await presence.bind_route(at("gw-1", "c1"))
        await presence.bind_route(at("gw-2", "c2", device="laptop"))
        await presence.unbind_route(at("gw-1", "c1"))
        await presence.unbind_route(at("gw-2", "c2", device="laptop"))
        await wait_until(lambda: len(told) == 3)
    assert [text for _, text in told] == ["online:gw-1", "online:gw-2", "offline:gw-2"]


async def test_a_route_that_nobody_renews_ends_by_itself(queue):
    """A gateway that dies leaves no ghosts for longer than a lifetime, and no key at all."""
    presence = Presence(queue, ttl_s=0.2)
    await presence.bind_route(at("gw-1"))
    assert await presence.statuses(["alice"]) == {"alice": "online"}
    await until_ended(presence, "alice")
    assert await presence.statuses(["alice"]) == {"alice": "offline"}
    async with asyncio.timeout(5):
        while await presence.queue.context("route").connection.call(
            "EXISTS", Keys().route("alice")
        ):
            await asyncio.sleep(0.01)


async def test_a_ghost_ends_although_another_device_of_its_user_is_renewed(queue):
    """Each route has its own time; and a device that comes does not find it replaced."""
    presence = Presence(queue, ttl_s=0.3)
    ghost, alive = at("gw-1", "c1"), at("gw-2", "c2", device="laptop")
    await presence.bind_route(ghost)
    await presence.bind_route(alive)
    async with asyncio.timeout(5):
        while len(await presence.query_route("alice")) == 2:
            assert await presence.renew("gw-2", [alive]) == []
            await asyncio.sleep(0.05)
    assert await presence.query_route("alice") == [Route("laptop", "gw-2", "c2")]
    assert (await presence.bind_route(at("gw-3", "c3"))).replaced == ()


async def test_a_renewed_route_lives_on(queue):
    """For three lifetimes and more."""
    presence, loop = Presence(queue, ttl_s=0.5), asyncio.get_running_loop()
    await presence.bind_route(at("gw-1"))
    end = loop.time() + 1.6
    while loop.time() < end:
        assert await presence.renew("gw-1", [at("gw-1")]) == []
        assert await presence.query_route("alice") == [Route("phone", "gw-1", "c1")]
        await asyncio.sleep(0.1)


async def test_a_route_that_ended_is_made_again_by_its_gateways_next_sign_of_life(queue):
    """The gateway was silent, not dead: the connection is there."""
    presence = Presence(queue, ttl_s=0.2)
    await presence.bind_route(at("gw-1"))
    await until_ended(presence, "alice")
    assert await presence.renew("gw-1", [at("gw-1")]) == []
    assert await presence.query_route("alice") == [Route("phone", "gw-1", "c1")]


async def test_a_replaced_route_is_not_renewed_and_its_gateway_is_told(presence):
    """The notice may be lost, for a channel keeps nothing; the next renewal says it again."""
    old, new, other = at("gw-1", "c1"), at("gw-2", "c2"), at("gw-1", "c3", uid="bob")
    for route in (old, new, other):
        await presence.bind_route(route)
    assert await presence.renew("gw-1", [old, other]) == [old]
    assert await presence.query_route("alice") == [Route("phone", "gw-2", "c2")]
    assert await presence.renew("gw-2", [new]) == []


async def test_what_is_unbound_during_a_renewal_stays_unbound(presence):
    """A gateway renews its routes some at a time.

    A connection that ends meanwhile does not come back as a ghost.
    """
    bound = [at("gw-1", f"c{n}", uid=f"user{n}") for n in range(1_100)]
    await asyncio.gather(*map(presence.bind_route, bound))
    renewal = asyncio.create_task(presence.renew("gw-1", bound))
    await asyncio.sleep(0)
    ended = [presence.unbind_route(bound[n]) for n in (0, 499, 500, 999, 1_000)]
    assert all(await asyncio.gather(*ended))
    assert await renewal == []
    statuses = await presence.statuses([each.uid for each in bound])
    assert [uid for uid, status in statuses.items() if status == "offline"] == [
        "user0", "user499", "user500", "user999", "user1000"
    ]  # fmt: skip


async def test_a_route_that_ended_and_was_replaced_meanwhile_stays_replaced(queue):
    """The one that is there was there first."""
    presence = Presence(queue, ttl_s=0.3)
    await presence.bind_route(at("gw-1", "c1"))
    await until_ended(presence, "alice")
    await presence.bind_route(at("gw-2", "c2"))
    assert await presence.renew("gw-1", [at("gw-1", "c1")]) == [at("gw-1", "c1")]


async def test_twelve_hundred_users_are_asked_about_and_renewed_in_one_call(presence):
    """More than one script takes at a time; every answer stands beside its user."""
    bound = [at("gw-1", f"c{n}", uid=f"user{n}") for n in range(0, 1_200, 2)]
    await asyncio.gather(*map(presence.bind_route, bound))
    uids = [f"user{n}" for n in range(1_200)]
    found = await presence.query_routes(uids)
    assert list(found) == uids
    for number, uid in enumerate(uids):
        assert found[uid] == ([] if number % 2 else [Route("phone", "gw-1", f"c{number}")])
    assert (
        await presence.renew("gw-1", [at("gw-1", f"c{n}", uid=f"user{n}") for n in range(1_200)])
        == []
    )
    assert set((await presence.statuses(uids)).values()) == {"online"}
    newer = [at("gw-2", f"d{n}", uid=f"user{n}") for n in (3, 499, 500, 1_199)]
    await asyncio.gather(*map(presence.bind_route, newer))
    replaced = await presence.renew(
        "gw-1", [at("gw-1", f"c{n}", uid=f"user{n}") for n in range(1_200)]
    )
    assert [each.uid for each in replaced] == ["user3", "user499", "user500", "user1199"]


async def test_asking_about_nobody_and_about_somebody_twice(presence):
    """No users, no answers; the same one twice is one."""
    await presence.bind_route(at("gw-1"))
    assert await presence.query_routes([]) == {} == await presence.statuses([])
    assert await presence.renew("gw-1", []) == []
    assert await presence.statuses(["alice", "bob", "alice"]) == {
        "alice": "online",
        "bob": "offline",
    }


async def test_delivery_tells_how_many_listen_whatever_the_route_says(presence, queue):
    """A ghost's route counts for nothing: 0 gateways."""
    await presence.bind_route(at("gw-1"))
    assert (await presence.deliver(DeliverRequest("alice", b"hello"))).gateways == 0
    async with heard(queue, user_channel("alice")) as told:
        assert (await presence.deliver(DeliverRequest("alice", b"hello"))).gateways == 1
        await wait_until(lambda: told)
    assert told == [("user:alice", "hello")]


async def test_routes_of_one_run_are_not_seen_by_another(server):
    """On a server that is shared, keys and channels carry the run's prefix."""
    async with (
        MessageQueue(server.url, prefix="one:") as one,
        MessageQueue(server.url, prefix="two:") as two,
    ):
        first, second = Presence(one), Presence(two)
        async with heard(one, status_channel("alice"), gateway_channel("gw-1")) as told:
            await first.bind_route(at("gw-1"))
            await first.bind_route(at("gw-1", "c2"))
            await wait_until(lambda: len(told) == 3)
        assert (
            await second.query_route("alice") == [] and len(await first.query_route("alice")) == 1
        )
        keys = await one.context("x").connection.call("KEYS", "*")
        assert sorted(keys) == [b"one:mpim:layout", b"one:route:alice", b"two:mpim:layout"]


@pytest.mark.parametrize("ttl_s", [0, -1])
async def test_a_lifetime_of_nothing_is_refused(queue, ttl_s):
    """By name."""
    with pytest.raises(InvalidParameter, match="ttl_s"):
        Presence(queue, ttl_s=ttl_s)
