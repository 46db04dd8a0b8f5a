"""TokenService on a server: each lets one client in, once, and nothing else lets anybody in."""

import asyncio
import base64
import json
import math
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidParameter, InvalidToken
from mpim_lab.im.services.tokens import TokenService, new_secret
from mpim_lab.keys import Keys
from mpim_lab.mq.pubsub.queue import MessageQueue

SECRET = new_secret()


class Clock:
    """Seconds since 1970, as a test says."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
async def queue(server):
    async with MessageQueue(server.url) as opened:
        yield opened


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens(clock):
    return TokenService(SECRET, ttl_s=60, clock=clock)


def claims(clock, **others):
    return {"sub": "alice", "aud": "mpim", "jti": "t1", "exp": clock() + 60} | others


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def test_a_token_lets_its_user_in_once(tokens, queue):
    """The second time it is told that it was used before."""
    token = tokens.issue("alice")
    assert await tokens.redeem(token, queue) == "alice"
    with pytest.raises(InvalidToken, match="used before"):
        await tokens.redeem(token, queue)


async def test_of_twenty_who_come_with_one_token_at_once_one_is_let_in(tokens, queue, server):
    """Also when they come by two gateways: the server's mark decides."""
    token = tokens.issue("alice")
    async with MessageQueue(server.url) as other:
        tries = [tokens.redeem(token, each) for each in (queue, other) * 10]
        answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(map(str, map(type, answers))) == sorted(map(str, [str, *[InvalidToken] * 19]))


async def test_a_token_ends_with_its_lifetime(tokens, queue, clock):
    """It is compared with this system's clock, to the moment."""
    token, other = tokens.issue("alice"), tokens.issue("bob")
    clock.now += 59.9
    assert await tokens.redeem(token, queue) == "alice"
    clock.now += 0.1
    with pytest.raises(InvalidToken, match="ended 0 s ago"):
        await tokens.redeem(other, queue)


async def test_a_gateway_whose_clock_is_behind_does_not_let_a_used_token_in_again(
    tokens, queue, clock
):
    """The mark outlives the token by a minute.

    For so much the clocks of two gateways may differ.
    """
    token = tokens.issue("alice")
    behind = Clock()
    behind.now = clock.now - 50
    clock.now += 59.999
    assert await tokens.redeem(token, queue) == "alice"
    assert (
        await queue.context("token").connection.call("PTTL", Keys().used_token(_id_of(token)))
        > 50_000
    )
    with pytest.raises(InvalidToken, match="used before"):
        await TokenService(SECRET, clock=behind).redeem(token, queue)


async def test_the_mark_of_a_used_token_does_not_stay_for_ever(tokens, queue):
    """It ends a minute after the token, so that the server does not fill up with them."""
    token = tokens.issue("alice")
    await tokens.redeem(token, queue)
    left_ms = await queue.context("token").connection.call("PTTL", Keys().used_token(_id_of(token)))
    assert 60_000 < left_ms <= 120_000


async def test_two_tokens_of_one_user_are_two(tokens, queue):
    """Each device has its own."""
    assert [await tokens.redeem(tokens.issue("alice"), queue) for _ in range(3)] == ["alice"] * 3


async def test_a_refused_token_leaves_no_mark(tokens, queue, clock):
    """Whoever forges a token's id does not use it up for its owner."""
    token = tokens.issue("alice")
    forged = jwt.encode(claims(clock, jti=_id_of(token)), "x" * 40, algorithm="HS256")
    with pytest.raises(InvalidToken):
        await tokens.redeem(forged, queue)
    assert await tokens.redeem(token, queue) == "alice"


@pytest.fixture
def hostile(clock):
    """Tokens that look right, each wrong in one thing."""
    good = claims(clock)
    header, body, signature = jwt.encode(good, SECRET, algorithm="HS256").split(".")
    none, longer = (
        part(b'{"alg":"none","typ":"JWT"}'),
        part(json.dumps(good | {"sub": "bob"}).encode()),
    )
    without = {name: {key: value for key, value in good.items() if key != name} for name in good}
    return {
        "another secret": jwt.encode(good, "y" * 40, algorithm="HS256"),
        "alg none": f"{none}.{body}.",
        "alg none, signed": f"{none}.{body}.{signature}",
        "another algorithm": jwt.encode(good, SECRET * 2, algorithm="HS512"),
        "another body": f"{header}.{longer}.{signature}",
        "no signature": f"{header}.{body}.",
        "another audience": jwt.encode(
            claims(clock, aud="somebody else"), SECRET, algorithm="HS256"
        ),
        **{
            f"without {name}": jwt.encode(each, SECRET, algorithm="HS256")
            for name, each in without.items()
        },
        "a user that is no name": jwt.encode(claims(clock, sub="a b"), SECRET, algorithm="HS256"),
        "a user that ends a line": jwt.encode(
            claims(clock, sub="alice\n"), SECRET, algorithm="HS256"
        ),
        "a user that is a number": jwt.encode(claims(clock, sub=7), SECRET, algorithm="HS256"),
        "ends never": jwt.encode(claims(clock, exp=math.inf), SECRET, algorithm="HS256"),
        "ends at no number": jwt.encode(claims(clock, exp=math.nan), SECRET, algorithm="HS256"),
        "ends in ages": jwt.encode(claims(clock, exp=10**400), SECRET, algorithm="HS256"),
        "nothing": "",
        "dots": "..",
        "one part": "abc",
        "not ASCII": "令牌.令牌.令牌",
        "half a character": "\ud800.a.b",
        "nested deeply": f"{part(b'[' * 1_400)}.{body}.{signature}",
        "a list for a header": f"{part(b'[]')}.{body}.{signature}",
    }


async def test_no_hostile_token_lets_anybody_in(tokens, queue, hostile):
    """Each is refused by name, InvalidToken, and nothing of it reaches the server."""
    for what, token in hostile.items():
        with pytest.raises(InvalidToken):
            pytest.fail(f"{what}: let in {await tokens.redeem(token, queue)}")
    assert await queue.connection.call("DBSIZE") == 0


@given(
    st.text(max_size=200) | st.builds("{}.{}.{}".format, *[st.binary(max_size=60).map(part)] * 3)
)
def test_whatever_is_no_token_is_refused_by_name(garbage):
    """Any text, and any three parts in a token's alphabet."""
    with pytest.raises(InvalidToken):
        TokenService(SECRET)._verify(garbage)


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_token_with_one_byte_changed_is_refused(place, change):
    """Wherever it is, unless the change says the same.

    The last character of base64 has unused bits.
    """
    token = TokenService(SECRET).issue("alice")
    raw = bytearray(token.encode())
    place %= len(raw) - 1
    raw[place] ^= change
    with pytest.raises(InvalidToken):
        TokenService(SECRET)._verify(raw.decode("latin-1"))


@pytest.mark.parametrize("options", [{"secret": "short"}, {"secret": SECRET, "ttl_s": 0}])
def test_bounds_are_refused_by_name(options):
    """A secret that can be guessed, and a token that ends before it begins."""
    with pytest.raises(InvalidParameter):
        TokenService(**options)


@pytest.mark.parametrize("uid", ["", "a b", "a:b", "alice\n", "a" * 65, None, 7])
def test_nobody_gets_a_token_without_a_name(tokens, uid):
    """1 to 64 letters, digits and a few signs."""
    with pytest.raises(InvalidParameter, match="uid"):
        tokens.issue(uid)


def _id_of(token):
    return jwt.decode(token, options={"verify_signature": False})["jti"]
