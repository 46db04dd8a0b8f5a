"""The proxy before real servers: each fault does what it says, and nothing else is changed."""

import asyncio
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeout

from mpim_lab.errors import (
    CommandTimeout,
    ConnectionLost,
    InvalidParameter,
    LoginRejected,
    MpimError,
)
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.faults.resp_framing import RespFramer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.resp import encode_command
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.streams import everything_done, shop, working
from tests.support import wait_until

QUICK = ConnectionConfig(
    timeout_s=0.4, connect_timeout_s=0.4, backoff=Backoff(initial_s=0.005, max_s=0.02)
)
M5 = Match("XADD", containing=b"m5")


class Behind:
    """A server as tests.streams expects one, reached through the proxy."""

    def __init__(self, proxy):
        self.url = proxy.url


async def stored(server, name="orders"):
    """What is in the stream, seen without the proxy."""
    async with MessageQueue(server.url) as mq:
        return [entry.data.decode().split()[0] for entry in await mq.stream(name).range()]


async def add(stream, *messages):
    """Add one after the other; gives the errors by message."""
    failed = {}
    for message in messages:
        try:
            await stream.add(f"{message} tea")
        except MpimError as error:
            failed[message] = error
    return failed


def port_of(proxy):
    """Where it listens."""
    return urlsplit(proxy.url).port


async def connected(proxy):
    """A bare connection, for what clients do not do."""
    return await asyncio.open_connection("127.0.0.1", port_of(proxy))


async def frames_until_the_end(reader):
    """All that comes until the line is cut."""
    splitter, frames = RespFramer(), []
    async with asyncio.timeout(5):
        while data := await reader.read(65536):
            frames += splitter.feed(data)
    return frames


# No fault


async def test_publishing_and_subscribing_work_as_without_it(server):
    """Patterns and iterators, too; payloads that look like frames or are larger than one read."""
    got, large = [], b"\r\n>2\r\n$7\r\nmessage\r\n" * 20_000
    async with (
        FaultProxy(server.url) as proxy,
        MessageQueue(proxy.url) as mq,
        MessageQueue(proxy.url) as other,
    ):
        await mq.subscribe("a", got.append)
        await mq.subscribe("b*", got.append, pattern=True)
        assert await other.publish("a", b"1") == 1
        assert await other.publish("b1", large) == 1
        async with other.listen("c") as messages:
            assert await mq.publish("c", b"3") == 1
            assert (await anext(messages)).payload == b"3"
        await wait_until(lambda: len(got) == 2)
        await mq.unsubscribe("a")
        assert await other.publish("a", b"4") == 0
        assert proxy.triggered == 0
    assert [message.payload for message in got] == [b"1", large]


async def test_many_commands_at_once_get_their_own_replies(server):
    """A pipeline that fills many reads, with replies of all lengths."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url) as mq:
        said = [b"x" * (number * 37 % 5_000) for number in range(1_000)]
        replies = await asyncio.gather(*(mq._commands.call("ECHO", word) for word in said))
    assert replies == said


async def test_a_stream_with_a_worker_works_as_without_it(server):
    """Adding, reading in a group, acknowledging, burying with a script."""
    got = []

    def handle(entry):
        got.append(entry.data)
        if entry.data == b"poison":
            raise ValueError

    async with (
        FaultProxy(server.url) as proxy,
        shop(Behind(proxy), "a", "poison", "b") as (group, stream),
    ):
        async with working(group, handle):
            await stream.add("c")
            await everything_done(group)
            await wait_until(lambda: got.count(b"poison") == 3)
            await everything_done(group)
        assert await group.dead_letters.count() == 1
    assert [each for each in got if each != b"poison"] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_another_client_works_through_it_in_either_protocol(server, protocol):
    """redis-py: a pipeline, a transaction, a subscription, in which RESP2 has no pushes."""
    async with (
        FaultProxy(server.url) as proxy,
        Redis.from_url(proxy.url, protocol=protocol) as client,
    ):
        async with client.pipeline(transaction=True) as transaction:
            queued = transaction.set("k", "v").get("k")  # type: ignore[attr-defined]
            assert await queued.execute() == [True, b"v"]
        async with client.pubsub() as listener:
            await listener.subscribe("a", "b")
            assert await client.publish("b", "hello") == 1
            async with asyncio.timeout(5):
                while (message := await listener.get_message(timeout=1)) is None or message[
                    "type"
                ] != "message":
                    pass
        assert message["data"] == b"hello"


async def test_a_unix_socket_and_a_login_and_a_database_stand_behind_it(server):
    """The server's user, password and database are in the proxy's URL, whatever they hold."""
    async with MessageQueue(server.url) as admin:
        await admin._commands.call("ACL", "SETUSER", "alice", "on", ">s3cr:t@", "+@all", "~*", "&*")
    behind = server.url.rpartition("/")[0].replace("redis://", "redis://alice:s3cr%3At%40@") + "/2"
    async with FaultProxy(behind) as proxy, MessageQueue(proxy.url) as mq:
        assert proxy.url.endswith("/2")
        assert await mq._commands.call("ACL", "WHOAMI") == b"alice"
        assert b"db=2" in await mq._commands.call("CLIENT", "INFO")
    async with (
        FaultProxy(server.unix_url.replace("db=0", "db=3")) as proxy,
        MessageQueue(proxy.url) as mq,
    ):
        assert b"db=3" in await mq._commands.call("CLIENT", "INFO")
    async with FaultProxy(behind.replace("alice:s3cr", "alice:wrong")) as proxy:
        with pytest.raises(LoginRejected):
            await MessageQueue(proxy.url).open()


async def test_a_server_that_is_killed_is_a_line_that_breaks_and_comes_back(server):
    """The proxy stays where it is."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        server.kill()
        await wait_until(lambda: not mq.is_connected)
        await server.start()
        await wait_until(lambda: mq.is_connected)
        assert await mq.publish("a", b"x") == 0


# A line that breaks


async def test_a_lost_reply_is_a_command_that_was_done(server):
    """ConnectionLost, definite=False, and the entry is there, once.

    The next message is added as if nothing had been.
    """
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        proxy.drop_reply(M5)
        failed = await add(mq.stream("orders"), "m4", "m5", "m6")
        assert proxy.triggered == 1
    assert set(failed) == {"m5"}
    assert isinstance(failed["m5"], ConnectionLost)
    assert not failed["m5"].definite
    assert await stored(server) == ["m4", "m5", "m6"]


async def test_a_lost_command_is_not_done(server):
    """The same error, because the client cannot tell; the entry is not there."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        proxy.drop_request(M5)
        failed = await add(mq.stream("orders"), "m4", "m5", "m6")
        assert proxy.triggered == 1
    assert set(failed) == {"m5"}
    assert isinstance(failed["m5"], ConnectionLost)
    assert await stored(server) == ["m4", "m6"]


@pytest.mark.parametrize(("fault", "copies"), [("drop_reply", 3), ("drop_request", 1)])
async def test_a_fault_strikes_as_often_as_it_was_armed_for(server, fault, copies):
    """Twice; a producer that repeats gets through, and has added once more for each lost reply."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        getattr(proxy, fault)(M5, times=2)
        attempts = [await add(mq.stream("orders"), "m5") for _ in range(3)]
        assert proxy.triggered == 2
    assert [len(failed) for failed in attempts] == [1, 1, 0]
    assert await stored(server) == ["m5"] * copies


async def test_a_match_is_by_name_in_any_case_and_by_argument(server):
    """A script by EVALSHA, its arguments; other commands with the same argument pass."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        proxy.drop_reply(Match("eval", containing=b"m5"))
        proxy.drop_reply(Match("xadd", containing=b"m5"))
        await mq.publish("a", b"m5")
        await mq._commands.call("EVAL", "return 1", "0", "m4")
        with pytest.raises(ConnectionLost):
            await mq._commands.call(
                "EVAL", "return redis.call('SET', KEYS[1], 'done')", "1", "k", "m5"
            )
        assert await mq._commands.call("GET", "k") == b"done"
        assert proxy.triggered == 1


async def test_a_subscription_can_be_lost_too(server):
    """Its answer is a push; the queue subscribes again on its next line."""
    got = []
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        await mq.subscribe("before", got.append)
        proxy.drop_reply(Match("SUBSCRIBE", containing=b"after"))
        with pytest.raises(ConnectionLost):
            await mq.subscribe("after", got.append)
        await wait_until(lambda: mq.is_connected)
        assert await mq.publish("before", b"x") == 1
        assert proxy.triggered == 1


# A line that is silent


async def test_a_stalled_reply_makes_a_client_that_repeats_add_twice(server):
    """One call of redis-py's xadd, as `Redis(…)` comes.

    It times out, sends again, and reports success. Two entries.
    """
    async with FaultProxy(server.url) as proxy:
        proxy.delay_reply(M5)
        async with Redis(port=port_of(proxy), protocol=3, socket_timeout=0.2) as client:
            assert await client.xadd("orders", {"data": "m5 tea"})
        assert proxy.triggered == 1
    assert await stored(server) == ["m5", "m5"]


@pytest.mark.parametrize("made", ["with zero retries", "from a URL"])
async def test_a_stalled_reply_without_repeating_is_a_time_out_and_one_entry(server, made):
    """redis-py says so, and leaves it to its caller.

    When told to, and when made by `from_url`, which has no retries.
    """
    async with FaultProxy(server.url) as proxy:
        proxy.delay_reply(M5)
        options = {"protocol": 3, "socket_timeout": 0.2}
        if made == "from a URL":
            client = Redis.from_url(proxy.url, **options)
        else:
            client = Redis(port=port_of(proxy), retry=Retry(NoBackoff(), 0), **options)
        async with client:
            with pytest.raises(RedisTimeout):
                await client.xadd("orders", {"data": "m5 tea"})
    assert await stored(server) == ["m5"]


async def test_our_queue_never_repeats_what_it_has_written(server):
    """CommandTimeout, definite=False, and one entry."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        proxy.delay_reply(M5)
        failed = await add(mq.stream("orders"), "m5")
        assert isinstance(failed["m5"], CommandTimeout)
        assert not failed["m5"].definite
        assert await stored(server) == ["m5"]
        await wait_until(lambda: mq.is_connected)
        assert not await add(mq.stream("orders"), "m6")
    assert await stored(server) == ["m5", "m6"]


async def test_a_reply_that_is_released_in_time_is_a_reply(server):
    """Nothing was cut: it comes late, and so does what was held behind it."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url) as mq:
        proxy.delay_reply(M5)
        stream = mq.stream("orders")
        adding = asyncio.gather(*(stream.add(f"m{number} tea") for number in range(4, 8)))
        await wait_until(lambda: proxy.triggered == 1)
        await asyncio.wait([adding], timeout=0.05)
        assert not adding.done()
        proxy.release()
        ids = await adding
        assert ids == sorted(ids)
    assert await stored(server) == ["m4", "m5", "m6", "m7"]


async def test_what_is_sent_into_a_partition_is_done_when_it_heals(server):
    """The caller has given up by then. A new connection is accepted and hears nothing."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        assert await mq.stream("orders").length() == 0  # the layout of the keys was looked at
        proxy.partition()
        failed = await add(mq.stream("orders"), "m5")
        assert isinstance(failed["m5"], CommandTimeout)
        assert await stored(server) == []
        reader, writer = await connected(proxy)
        writer.write(encode_command("PING"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        proxy.heal()
        async with asyncio.timeout(10):
            while await stored(server) != ["m5"]:
                await asyncio.sleep(0.005)
        writer.close()
        await wait_until(lambda: mq.is_connected)
        assert await mq.publish("a", b"x") == 0


async def test_a_partition_that_heals_in_time_is_not_noticed(server):
    """What waited passes, in order, both ways."""
    got = []
    async with (
        FaultProxy(server.url) as proxy,
        MessageQueue(proxy.url) as mq,
        MessageQueue(server.url) as other,
    ):
        await mq.subscribe("a", got.append)
        proxy.partition()
        publishing = asyncio.gather(*(mq.publish("a", b"%d" % number) for number in range(5)))
        assert await other.publish("a", b"other") == 1
        await asyncio.wait([publishing], timeout=0.05)
        assert (publishing.done(), got) == (False, [])
        proxy.heal()
        assert await publishing == [1] * 5
        await wait_until(lambda: len(got) == 6)
    assert [message.payload for message in got] == [b"other", b"0", b"1", b"2", b"3", b"4"]


# A line that is cut somewhere


async def test_a_cut_at_a_byte_gives_so_many_bytes_and_no_more(server):
    """At any byte of a reply; only the next connection is cut."""
    command, whole = encode_command("ECHO", b"hello") * 2, b"$5\r\nhello\r\n" * 2
    async with FaultProxy(server.url) as proxy:
        for place in range(1, len(whole) + 1):
            proxy.cut_at_byte(place)
            reader, writer = await connected(proxy)
            writer.write(command)
            assert await asyncio.wait_for(reader.read(), 5) == whole[:place]
            writer.close()
        assert proxy.triggered == len(whole)
        async with Redis.from_url(proxy.url, protocol=3) as client:
            assert await client.echo("again") == b"again"


async def test_a_login_that_is_cut_anywhere_is_a_named_error(server):
    """In the answer to HELLO: opening fails, with an error of ours; the next attempt works."""
    async with FaultProxy(server.url) as proxy:
        for place in (0, 1, 3, 40, 90):
            proxy.cut_at_byte(place)
            with pytest.raises(MpimError):
                await MessageQueue(proxy.url, config=QUICK).open()
        async with MessageQueue(proxy.url, config=QUICK) as mq:
            assert await mq.publish("a", b"x") == 0


# What it does not do


async def test_inline_commands_are_not_understood_and_end_the_line(server):
    """Nobody hangs, and other lines go on."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=QUICK) as mq:
        reader, writer = await connected(proxy)
        writer.write(b"SET k v\r\n")
        await frames_until_the_end(reader)
        writer.close()
        assert await mq._commands.call("EXISTS", "k") == 0


async def test_leaving_cuts_every_line_at_once_whatever_is_held(server):
    """Stalled, partitioned or idle; no task of its own is left."""
    before = asyncio.all_tasks()
    async with asyncio.timeout(5), FaultProxy(server.url) as proxy:
        proxy.delay_reply(Match("PING"))
        lines = [await connected(proxy) for _ in range(3)]
        lines[0][1].write(encode_command("PING"))
        await wait_until(lambda: proxy.triggered == 1)
        proxy.partition()
        lines[1][1].write(encode_command("PING"))
    for reader, writer in lines:
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    await wait_until(lambda: asyncio.all_tasks() == before)


def test_what_cannot_be_is_refused():
    """InvalidParameter, at once."""
    proxy = FaultProxy("redis://127.0.0.1:1/0")
    for wrong in (
        lambda: proxy.drop_reply(M5, times=0),
        lambda: proxy.cut_at_byte(-1),
        lambda: FaultProxy("http://x"),
    ):
        with pytest.raises(InvalidParameter):
            wrong()
