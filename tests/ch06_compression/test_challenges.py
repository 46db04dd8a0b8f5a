"""Chapter 6's challenges: the reference solutions pass, every known-bad one is caught."""

import zlib

from mpim_lab.chapters.ch06_compression.challenges import defuse_the_bomb, say_what_it_is
from mpim_lab.chapters.ch06_compression.naive import NaiveCodec
from mpim_lab.chapters.ch06_compression.solutions import (
    PACKED,
    PLAIN,
    BoundedUnpacker,
    SelfDescribingCodec,
)
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)
from tests.support import REPEATS


class Naive:
    """The chapter's naive version."""

    pack, unpack = NaiveCodec.encode, NaiveCodec.decode


class MarksEverything(SelfDescribingCodec):
    """Knows what it made itself, and nobody else."""

    def pack(self, payload):
        return PACKED + zlib.compress(payload) if len(payload) > 50 else PLAIN + payload

    def unpack(self, packed):
        return zlib.decompress(packed[1:]) if packed[:1] == PACKED else packed[1:]


class Guesses(SelfDescribingCodec):
    """Tries to decompress whatever comes."""

    def pack(self, payload):
        packed = zlib.compress(payload)
        return packed if len(packed) < len(payload) else payload

    def unpack(self, packed):
        try:
            return zlib.decompress(packed)
        except zlib.error:
            return packed


class ForgetsToEscape(SelfDescribingCodec):
    """A plain payload that begins with the mark is taken for a packed one."""

    def pack(self, payload):
        packed = PACKED + zlib.compress(payload) if len(payload) > 50 else payload
        return packed if len(packed) < len(payload) else payload

    def unpack(self, packed):
        return zlib.decompress(packed[1:]) if packed[:1] == PACKED else packed


class NeverAsksWhetherItPays(SelfDescribingCodec):
    def pack(self, payload):
        framed = PLAIN + payload if payload[:1] in (PLAIN, PACKED) else payload
        return PACKED + zlib.compress(framed) if len(framed) > 48 else framed


class NeverCompresses(SelfDescribingCodec):
    def pack(self, payload):
        return PLAIN + payload if payload[:1] in (PLAIN, PACKED) else payload


class ChecksAfterwards:
    """The naive twin with a limit that comes too late."""

    def unpack(self, packed, max_bytes):
        out = NaiveCodec().decode(packed)
        if len(out) > max_bytes:
            raise ValueError("too large")
        return out


class HasNoLimit:
    def unpack(self, packed, max_bytes):
        return NaiveCodec().decode(packed)


class CutsItOff:
    """Gives as much as is allowed, and says nothing."""

    def unpack(self, packed, max_bytes):
        return zlib.decompressobj().decompress(packed, max_bytes)


class TakesHalves(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes + 1)
        if len(out) > max_bytes:
            raise ValueError("too large")
        return out


class IgnoresTheRest(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes + 1)
        if len(out) > max_bytes or not stream.eof:
            raise ValueError("no")
        return out


class DistrustsHighRatios(BoundedUnpacker):
    """Refuses what shrank a hundredfold: also honest text."""

    def unpack(self, packed, max_bytes):
        if len(packed) * 100 < max_bytes:
            raise ValueError("suspicious")
        return super().unpack(packed, max_bytes)


class NeverFails(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        try:
            return super().unpack(packed, max_bytes)
        except (ValueError, zlib.error):
            return b""


async def test_the_reference_solutions_pass_on_every_run():
    """REPEATS times each."""
    await assert_all_pass(
        *(say_what_it_is().check(SelfDescribingCodec) for _ in range(REPEATS)),
        *(defuse_the_bomb().check(BoundedUnpacker) for _ in range(3)),
    )


async def test_a_codec_that_cannot_tell_is_caught():
    """Each for its own reason."""
    await assert_each_fails(
        say_what_it_is,
        {
            Naive: "m6 was lost",
            MarksEverything: "m6 was lost",
            Guesses: "came back as",
            ForgetsToEscape: "raised error",
            NeverAsksWhetherItPays: "bytes became",
            NeverCompresses: "repetitive text",
        },
    )


async def test_an_unpack_that_can_be_blown_up_or_fooled_is_caught():
    """Each for its own reason."""
    await assert_each_fails(
        defuse_the_bomb,
        {
            HasNoLimit: "no error, and 262,145 bytes",
            ChecksAfterwards: "of memory",
            CutsItOff: "no error",
            TakesHalves: "no error",
            IgnoresTheRest: "no error",
            DistrustsHighRatios: "honest payload",
            NeverFails: "no error",
        },
    )


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(say_what_it_is(), defuse_the_bomb())
