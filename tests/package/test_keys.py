"""Keys: different names give different keys, one atomic step has one slot, made in one place."""

import ast
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from redis.crc import key_slot

import mpim_lab
from mpim_lab.errors import InvalidMessage, InvalidParameter
from mpim_lab.im.protocol.requests import direct_conversation, group_conversation
from mpim_lab.keys import (
    Keys,
    ack_channel,
    is_ack_channel,
    joined,
    name_bytes,
    name_text,
    same_name,
)
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.pubsub.queue import MessageQueue

ROOT = Path(mpim_lab.__file__).parent
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
nasty = st.text(":%{}*[] \n37BDA", min_size=1, max_size=6)
names = (
    texts
    | nasty
    | st.binary(min_size=1, max_size=6)
    | st.sampled_from(["route", "mpim:layout", "🍵", "$", ">", "-"])
)
mpim_names = st.text("ab:._-{}%", min_size=1, max_size=4)
numbers = st.integers(0, 12)
MADE = {  # every method of Keys, and what it is given
    "stream": (names,),
    "dead_letters": (names, names),
    "consumer_lease": (names, names, names),
    "idempotency_record": (names, names),
    "fencing_tokens": (names,),
    "sequence": (names, names),
    "message_id": (names, names, names),
    "log": (names, names),
    "partition": (names, numbers),
    "partition_sequence": (names, numbers, names),
    "partition_message_id": (names, numbers, names, names),
    "assignment": (names, numbers, names),
    "members": (names, names),
    "route": (mpim_names,),
    "direct_conversations": (mpim_names,),
    "acked": (mpim_names,),
    "cached_members": (mpim_names,),
    "members_version": (mpim_names,),
    "used_token": (mpim_names,),
}
calls = st.one_of([st.tuples(st.just(method), st.tuples(*given)) for method, given in MADE.items()])
OF_A_STREAM = {"dead_letters", "consumer_lease"}  # given the stream's key
NOT_KEYS = {
    "channel",
    "channel_name",
    "live",
    "pattern",
    "idempotency_record_prefix",
    "partition_prefixes",
}


def make(keys, call):
    """The key that a call gives, and what was asked for: names as the server has them."""
    method, arguments = call
    asked = tuple(name_bytes(each) if isinstance(each, str | bytes) else each for each in arguments)
    if method in OF_A_STREAM:
        arguments = (keys.stream(arguments[0]), *arguments[1:])
    return getattr(keys, method)(*arguments), (method, asked)


def test_every_method_that_makes_a_key_is_looked_at():
    """Whoever adds one adds it above."""
    methods = {
        name for name in vars(Keys) if not name.startswith("_") and callable(getattr(Keys, name))
    }
    assert methods == set(MADE) | NOT_KEYS


@given(names, calls, calls)
@example(
    "", ("idempotency_record", ("payments", "eu:42")), ("idempotency_record", ("payments:eu", "42"))
)
@example("", ("message_id", ("team:a", "b", "1")), ("message_id", ("team", "a:b", "1")))
@example("", ("stream", ("mpim:layout",)), ("stream", ("mpim%3Alayout",)))
@example("", ("stream", ("route:bob",)), ("route", ("bob",)))
@example("", ("stream", ("once:{payments}:id:1",)), ("idempotency_record", ("payments", "1")))
def test_different_names_give_different_keys(prefix, one, other):
    """Whatever they hold, and whichever kind of key it is.

    The same names, as text or as bytes, give the same key.
    """
    keys = Keys(prefix)
    (key, asked), (other_key, other_asked) = make(keys, one), make(keys, other)
    assert (key == other_key) == (asked == other_asked)
    assert keys.layout not in (key, other_key) and keys.outbox not in (key, other_key)


@given(names, st.lists(st.tuples(names, names), min_size=2, max_size=2, unique=True))
def test_different_dead_letters_are_in_different_streams(prefix, two):
    """Of two streams, or of two groups; and never in a stream of the user's."""
    keys = Keys(prefix)
    asked = {tuple(map(name_bytes, each)) for each in two}
    made = {keys.dead_letters(keys.stream(stream), group) for stream, group in two}
    assert len(made) == len(asked)
    assert not made & {keys.stream(name) for pair in two for name in pair}


@given(st.lists(names, max_size=3), st.lists(names, max_size=3))
def test_joining_names_is_one_to_one(one, other):
    """No list of names joins to what another joins to."""
    same = [name_bytes(each) for each in one] == [name_bytes(each) for each in other]
    assume(one and other)
    assert (joined(*one) == joined(*other)) == same


@given(names, names, names, names, names, numbers)
def test_all_keys_of_one_atomic_step_are_in_one_slot(prefix, name, conversation, id, group, number):
    """As a cluster computes it.

    A stream and its dead letters, a scope, a conversation, a partition, a user, a group.
    """
    keys = Keys(prefix)
    steps = [
        [keys.stream(name), keys.dead_letters(keys.stream(name), group)],
        [
            keys.fencing_tokens(name),
            keys.idempotency_record(name, id),
            keys.idempotency_record(name, conversation),
        ],
        [
            keys.sequence(name, conversation),
            keys.message_id(name, conversation, id),
            keys.log(name, conversation),
        ],
        [
            keys.partition(name, number),
            keys.partition_sequence(name, number, conversation),
            keys.partition_message_id(name, number, conversation, id),
            keys.assignment(name, number, group),
            keys.dead_letters(keys.partition(name, number), group),
        ],
        [keys.direct_conversations("bob"), keys.acked("bob")],
        [keys.cached_members("tea"), keys.members_version("tea")],
    ]
    for step in steps:
        assert len({key_slot(key) for key in step}) == 1, step


@given(names)
def test_a_name_read_from_the_server_is_the_name_that_was_given(name):
    """Text where UTF-8 allows it, otherwise the bytes: two names never become one."""
    assert name_bytes(name_text(name_bytes(name))) == name_bytes(name)
    assert same_name(name) == same_name(name_bytes(name))


class Colour(StrEnum):
    """A text of a class of its own, which shows itself as something else."""

    RED = "red"


class Secretive(bytes):
    """Bytes that would like to be others."""

    def __bytes__(self):
        return b"somebody else"


def test_texts_and_bytes_of_other_classes_are_what_they_hold():
    """They are copied to plain bytes."""
    for name, held in [(Colour.RED, b"red"), (Secretive(b"me"), b"me")]:
        assert name_bytes(name) == held and type(name_bytes(name)) is bytes
        assert Keys().idempotency_record(name, name) == b"once:{%b}:id:%b" % (held, held)


@pytest.mark.parametrize(
    "no_name", ["", b"", "\ud800", None, 7, ["a"], bytearray(b"a"), memoryview(b"a")]
)
def test_what_is_no_name_is_refused_by_name(no_name):
    """InvalidMessage; of a constructor's parameter InvalidParameter."""
    with pytest.raises(InvalidMessage):
        name_bytes(no_name)
    with pytest.raises(InvalidMessage):
        Keys().stream(no_name)
    if no_name not in ("", b""):
        with pytest.raises(InvalidParameter):
            MessageQueue("redis://127.0.0.1:1", prefix=no_name)


def test_a_pattern_takes_the_prefix_as_it_is_written():
    """Stars and brackets of a prefix match themselves alone."""
    assert Keys("a*[b]?\\:").pattern("user:*") == rb"a\*\[b\]\?\\:user:*"


def test_a_channel_is_for_acknowledgements_by_its_kind_and_not_by_its_spelling():
    """A user's own channel may be called so."""
    assert (
        is_ack_channel(ack_channel("1"))
        and not is_ack_channel("confirm:1")
        and not is_ack_channel("batches:a")
    )


def test_an_effect_goes_to_the_same_key_as_the_queue_finds_under_that_name():
    """Braces and percent signs, too."""
    queue, effects = MessageQueue("redis://127.0.0.1:1", prefix="p%{"), AtomicEffects("p%{")
    effects.add("INCR", "account:{bob}%")
    assert effects.commands == [(b"INCR", queue.context("account:{bob}%").key)]


@given(*[st.sampled_from(["a", "b", "a.b", "a-b", "_", "a.", ".b"])] * 4)
def test_two_users_have_one_conversation_and_nobody_else_has_it(a, b, c, d):
    """With the narrow names that users have; others are refused."""
    assert (direct_conversation(a, b) == direct_conversation(c, d)) == (
        sorted([a, b]) == sorted([c, d])
    )


@pytest.mark.parametrize("no_user", ["", "a:b", "a b", "é", "a\n", "x" * 65, "#a", "{a}"])
def test_no_conversation_is_named_of_what_is_no_user_and_no_group(no_user):
    """Refused by name, before anything is sent."""
    for name in (lambda: direct_conversation("bob", no_user), lambda: group_conversation(no_user)):
        with pytest.raises(InvalidParameter, match="1 to 64 letters"):
            name()


# What takes a key or makes one: context(name), call("GET", key), add("INCR", key)
_TAKES_KEYS = {"context", "stream", "call", "run", "add"}


def formatted_keys(tree):
    """Where a key is put together on the spot.

    An f-string, % or + with a ":" in it, given to what takes keys.
    """
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _TAKES_KEYS
        ):
            for argument in node.args:
                if isinstance(argument, ast.JoinedStr | ast.BinOp) and _has_a_colon(argument):
                    yield ast.unparse(node)
        elif isinstance(node, ast.JoinedStr) and _goes_on_after_a_prefix(node):
            yield ast.unparse(node)


def _goes_on_after_a_prefix(node):
    """A longer prefix, which ends with a colon, is no key.

    Neither is a prefix that is shown to somebody.
    """
    last, shown = (
        node.values[-1],
        [each for each in node.values if getattr(each, "conversion", -1) != -1],
    )
    is_prefix = isinstance(last, ast.Constant) and last.value.endswith(":")
    return len(node.values) > 1 and "prefix" in _names_in(node) and not is_prefix and not shown


def _has_a_colon(node):
    words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return any(
        (isinstance(word, str) and ":" in word) or (isinstance(word, bytes) and b":" in word)
        for word in words
    )


def _names_in(node):
    return {getattr(each, "attr", getattr(each, "id", "")) for each in ast.walk(node)}


# Other prefixes are made of the run's, and SCAN looks for it; names of load runs begin with it.
_MAY = {
    "lab/server/external.py",
    "lab/server/run_keys.py",
    "load/load.py",
    "bench/limit.py",
    # a learner's class: the harness puts the run's prefix before its keys
    "chapters/ch08_im/solutions.py",
    "chapters/ch01_pubsub/sender_run.py",  # names of channels, as a learner's class has them
    "chapters/ch03_idempotency/challenges.py",  # the ledger that a payment's commands write
    "soak/api/data_invariants.py",  # what a user's effects write
    "soak/api/senders.py",
    "soak/api/effects.py",
    "bench/comparison.py",
    "bench/gateway/servers.py",
    "keys.py",
}


def test_no_key_is_put_together_outside_of_keys():
    """A key that somebody makes on the spot may be somebody else's."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        made = (
            []
            if name in _MAY
            else list(formatted_keys(ast.parse(path.read_text(encoding="utf-8"))))
        )
        if made:
            found[name] = made
    assert found == {}


def test_keys_put_together_on_the_spot_are_found():
    """The test above sees them."""
    for line in [
        'queue.context(f"once:{id}")',
        'link.call("GET", "seq:%s" % name)',
        'key = f"{mq.prefix}{name}"',
        'mq.stream("a:" + b)',
    ]:
        assert list(formatted_keys(ast.parse(line))), line
