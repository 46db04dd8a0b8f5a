"""A learner's class that asks for the end of the process ends its trial and nothing else."""

import sys
import zlib

import pytest

from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.chapters.ch05_batching.challenges import close_the_batch, lose_nothing
from mpim_lab.chapters.ch06_compression.challenges import defuse_the_bomb, say_what_it_is
from mpim_lab.chapters.ch07_pool.challenges import first_come_first_served, give_nothing_broken_back
from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.compression.dictionary import train_dictionary

CHALLENGES = (
    close_the_batch, lose_nothing, say_what_it_is, defuse_the_bomb,
    first_come_first_served, give_nothing_broken_back,
)  # fmt: skip


class Exits:
    """At its first breath."""

    def __init__(self, *given):
        sys.exit(3)


class Interrupted:
    """As if somebody had pressed Ctrl-C."""

    def __init__(self, *given):
        raise KeyboardInterrupt


class ExitsLater(Interrupted):
    """In a task of the laboratory's."""

    def __init__(self, *given):
        pass

    async def add(self, payload):
        sys.exit(3)

    async def close(self):
        pass


@pytest.mark.parametrize("challenge", CHALLENGES)
@pytest.mark.parametrize("bad", [Exits, Interrupted])
async def test_the_trial_ends_and_says_why(challenge, bad):
    """Not passed, in the words of what was raised."""
    outcome = await challenge().check(bad)
    assert not outcome.passed
    assert ("SystemExit" if bad is Exits else "KeyboardInterrupt") in repr(outcome)


@pytest.mark.parametrize("challenge", [close_the_batch, lose_nothing])
async def test_also_from_a_task(challenge):
    """Where asyncio would pass it on through the event loop."""
    assert "SystemExit" in repr(await challenge().check(ExitsLater))


class ExitsWhenItShouldRefuse:
    """Right until then: to end the process is no way to refuse."""

    def unpack(self, packed, most_bytes):
        got = zlib.decompressobj().decompress(packed, most_bytes + 1)
        if len(got) > most_bytes:
            sys.exit("too large")
        return got


async def test_the_end_of_the_process_is_no_refusal():
    """Of a payload that is to be refused."""
    assert "SystemExit" in repr(await defuse_the_bomb().check(ExitsWhenItShouldRefuse))


@pytest.mark.parametrize("samples", [[b"x"] * 10, [b"x"] * 3, [], [b""] * 100, [b"x"] * 1_000])
def test_samples_that_would_end_the_process_are_refused(samples):
    """The compressor's own trainer divides by zero with some of them."""
    with pytest.raises(InvalidParameter, match="too few, or too short"):
        train_dictionary(samples)


@pytest.mark.parametrize("bad", [{"messages": 12.5}, {"seed": 1.5}, {"duration": True}])
def test_a_parameter_that_counts_takes_whole_numbers(bad):
    """And says so at once."""
    with pytest.raises(InvalidParameter, match=next(iter(bad))):
        PubSubDelivery(**bad)
