"""Chapter 6's challenges: right solutions pass, wrong ones break the guarantee that they break."""

import gzip
import zlib

import pytest

from mpim_lab.chapters.ch06_compression.challenges import defuse_the_bomb, say_what_it_is
from mpim_lab.chapters.ch06_compression.naive import NaiveCodec
from mpim_lab.chapters.ch06_compression.solutions import (
    ALTERNATIVES,
    PACKED,
    PLAIN,
    BoundedUnpacker,
    SelfDescribingCodec,
)
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.decompress import decompress_zlib
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
    thorough,
)


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
    """A plain payload that begins with the type byte is taken for a packed one."""

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


class HasALongMagic(SelfDescribingCodec):
    """Nobody begins a payload with these four bytes, it thinks: packed twice is unpacked twice."""

    magic = b"\xf8\xf9\xfa\xfb"

    def pack(self, payload):
        packed = self.magic + zlib.compress(payload)
        return packed if len(packed) < len(payload) else payload

    def unpack(self, packed):
        while packed.startswith(self.magic):
            packed = zlib.decompress(packed[4:])
        return packed


class HasAMagicAndGuesses(HasALongMagic):
    """What cannot be unpacked was plain; what was packed before comes back unpacked."""

    def unpack(self, packed):
        try:
            return super().unpack(packed)
        except zlib.error:
            return packed


class RemembersWhatItPacked:
    packed: dict[bytes, bytes] = {}

    def pack(self, payload):
        packed = zlib.compress(payload)
        if len(packed) >= len(payload):
            return payload
        self.packed[packed] = payload
        return packed

    def unpack(self, packed):
        return self.packed.get(packed, packed)


class EscapesOneOfTwo(SelfDescribingCodec):
    def pack(self, payload):
        framed = PLAIN + payload if payload[:1] == PACKED else payload
        packed = PACKED + zlib.compress(framed) if len(framed) > 50 else framed
        return packed if len(packed) < len(framed) else framed


class UnescapesAll(SelfDescribingCodec):
    def unpack(self, packed):
        framed = zlib.decompress(packed[1:]) if packed[:1] == PACKED else packed
        return framed.lstrip(PLAIN)


class ForgetsTheInnerEscape(SelfDescribingCodec):
    """What was escaped and then packed keeps its type byte."""

    def unpack(self, packed):
        if packed[:1] == PACKED:
            return zlib.decompress(packed[1:])
        return packed[1:] if packed[:1] == PLAIN else packed


class TripsOverNothing(SelfDescribingCodec):
    def unpack(self, packed):
        return super().unpack(packed) if packed[0] else packed


class MarksWithALetter(SelfDescribingCodec):
    """A text may begin with it, too."""

    def pack(self, payload):
        if payload[:1] in (b"Z", b"P"):
            payload = b"P" + payload
        packed = b"Z" + zlib.compress(payload)
        return packed if len(packed) < len(payload) else payload

    def unpack(self, packed):
        framed = zlib.decompress(packed[1:]) if packed[:1] == b"Z" else packed
        return framed[1:] if framed[:1] == b"P" else framed


class MarksWithHalfALetter(SelfDescribingCodec):
    """No ASCII text begins with C3, but "é" does."""

    mark = b"\xc3"

    def pack(self, payload):
        packed = self.mark + b"\1" + zlib.compress(payload)
        if len(packed) < len(payload):
            return packed
        return self.mark + payload if payload[:1] == self.mark else payload

    def unpack(self, packed):
        if packed[:2] == self.mark + b"\1":
            return zlib.decompress(packed[2:])
        return packed[1:] if packed[:1] == self.mark else packed


class KnowsTheHeadOfZlib(SelfDescribingCodec):
    """78 9C says it all, until somebody sends what is compressed already."""

    def pack(self, payload):
        packed = zlib.compress(payload)
        return packed if len(packed) < len(payload) else payload

    def unpack(self, packed):
        return zlib.decompress(packed) if packed[:2] == b"\x78\x9c" else packed


class StripsIt(SelfDescribingCodec):
    def pack(self, payload):
        return super().pack(payload.strip())


class TakesAllForText(SelfDescribingCodec):
    def pack(self, payload):
        return super().pack(payload.decode(errors="replace").encode())


class EscapesWithTwoBytes(SelfDescribingCodec):
    def pack(self, payload):
        framed = PLAIN * 2 + payload if payload[:1] in (PLAIN, PACKED) else payload
        packed = PACKED + zlib.compress(framed)
        return packed if len(packed) < len(framed) else framed

    def unpack(self, packed):
        framed = zlib.decompress(packed[1:]) if packed[:1] == PACKED else packed
        return framed[2:] if framed[:1] == PLAIN else framed


class LooksAnywhere(SelfDescribingCodec):
    def unpack(self, packed):
        before, mark, rest = packed.partition(PACKED)
        framed = zlib.decompress(rest) if mark and not before else packed
        return framed.replace(PLAIN, b"", 1)


class PacksOnlyTheVeryLong(SelfDescribingCodec):
    def pack(self, payload):
        if len(payload) < 50_000:
            return PLAIN + payload if payload[:1] in (PLAIN, PACKED) else payload
        return super().pack(payload)


class CutsAt64KiB(SelfDescribingCodec):
    def pack(self, payload):
        return super().pack(payload[:65_536])


class IsAsync(SelfDescribingCodec):
    async def pack(self, payload):  # type: ignore[override]
        return super().pack(payload)


class ChecksAfterwards:
    """The naive version with a limit that comes too late."""

    def unpack(self, packed, max_bytes):
        out = NaiveCodec().decode(packed)
        if len(out) > max_bytes:
            raise ValueError("too large")
        return out


class HasNoLimit:
    def unpack(self, packed, max_bytes):
        return NaiveCodec().decode(packed)


class HasALimitOfItsOwn(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        return super().unpack(packed, 256 * 1024)


class KeepsTheFirstLimit(BoundedUnpacker):
    limit = None

    def unpack(self, packed, max_bytes):
        self.limit = self.limit or max_bytes
        return super().unpack(packed, self.limit)


class CutsItOff:
    """Gives as much as is allowed, and says nothing."""

    def unpack(self, packed, max_bytes):
        return zlib.decompressobj().decompress(packed, max_bytes)


class AllowsOneTooMany(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        return super().unpack(packed, max_bytes + 1)


class AllowsOneTooFew(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        out = super().unpack(packed, max_bytes)
        if len(out) >= max_bytes:
            raise ValueError("too large")
        return out


class AsksForTheLimitOnly:
    """Right: zlib reads on to the end of the stream, for which it needs no room."""

    def unpack(self, packed, max_bytes):
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes)
        if stream.unconsumed_tail or not stream.eof or stream.unused_data:
            raise ValueError("no")
        return out


class TakesHalves(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes + 1)
        if len(out) > max_bytes or stream.unused_data:
            raise ValueError("too large")
        return out


class IgnoresTheRest(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes + 1)
        if len(out) > max_bytes or not stream.eof:
            raise ValueError("no")
        return out


class IgnoresWhiteSpaceBehind(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        return super().unpack(packed.rstrip(b"\n"), max_bytes)


class DistrustsHighRatios(BoundedUnpacker):
    """Refuses what shrank a hundredfold: also honest text."""

    def unpack(self, packed, max_bytes):
        out = super().unpack(packed, max_bytes)
        if len(packed) * 100 < len(out):
            raise ValueError("suspicious")
        return out


class RefusesWhatGrew(BoundedUnpacker):
    """Longer packed than it may be unpacked: honest bytes that do not compress."""

    def unpack(self, packed, max_bytes):
        if len(packed) > max_bytes:
            raise ValueError("too large")
        return super().unpack(packed, max_bytes)


class RefusesNothing(BoundedUnpacker):
    """An empty payload, honestly packed."""

    def unpack(self, packed, max_bytes):
        if not (out := super().unpack(packed, max_bytes)):
            raise ValueError("empty")
        return out


class NeverFails(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        try:
            return super().unpack(packed, max_bytes)
        except (ValueError, zlib.error):
            return b""


class PrintsAMessage(BoundedUnpacker):
    """And returns None."""

    def unpack(self, packed, max_bytes):
        try:
            return super().unpack(packed, max_bytes)
        except ValueError as error:
            print(error)


class KeepsItsStream:
    """Which is at its end after the first payload."""

    def __init__(self):
        self.stream = zlib.decompressobj()

    def unpack(self, packed, max_bytes):
        out = self.stream.decompress(packed, max_bytes + 1)
        if len(out) > max_bytes or not self.stream.eof or self.stream.unused_data:
            raise ValueError("no")
        return out


class TakesGzip(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        if packed[:2] == b"\x1f\x8b":
            return gzip.decompress(packed)
        return super().unpack(packed, max_bytes)


class KnowsOneHead(BoundedUnpacker):
    """Other levels and windows begin otherwise."""

    def unpack(self, packed, max_bytes):
        if packed[:2] != b"\x78\x9c":
            raise ValueError("no zlib")
        return super().unpack(packed, max_bytes)


class IgnoresTheChecksum(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        stream = zlib.decompressobj(wbits=-15)
        out = stream.decompress(packed[2:], max_bytes + 1)
        if len(out) > max_bytes or not stream.eof or len(stream.unused_data) != 4:
            raise ValueError("no")
        return out


class FlushesTheRest(BoundedUnpacker):
    """`flush` has no limit."""

    def unpack(self, packed, max_bytes):
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes + 1) + stream.flush()
        if len(out) > max_bytes or not stream.eof or stream.unused_data:
            raise ValueError("no")
        return out


class CountsAtTheEnd:
    """In small steps, all of which it keeps."""

    def unpack(self, packed, max_bytes):
        stream, parts, left = zlib.decompressobj(), [], packed
        while left and not stream.eof:
            parts.append(stream.decompress(left, 4096))
            left = stream.unconsumed_tail
        if sum(map(len, parts)) > max_bytes or not stream.eof or stream.unused_data:
            raise ValueError("no")
        return b"".join(parts)


class MakesRoomFirst(BoundedUnpacker):
    """A buffer of a hundred times the packed bytes, whatever the limit."""

    def unpack(self, packed, max_bytes):
        room = bytearray(100 * len(packed))
        return super().unpack(packed, max_bytes)[: len(room)]


class GivesAByteArray(BoundedUnpacker):
    def unpack(self, packed, max_bytes):
        return bytearray(super().unpack(packed, max_bytes))


class AsyncUnpacker(BoundedUnpacker):
    async def unpack(self, packed, max_bytes):  # type: ignore[override]
        return super().unpack(packed, max_bytes)


class PackageCodec:
    """The package's own codec."""

    algorithm = "zlib"

    def __init__(self):
        self.codec = Codec(self.algorithm)

    def pack(self, payload):
        return self.codec.encode(payload)

    def unpack(self, packed):
        return self.codec.decode(packed)


class PackageLz4(PackageCodec):
    algorithm = "lz4"


class PackageZstd(PackageCodec):
    algorithm = "zstd"


class PackageUnpacker:
    """The package's own `decompress_zlib`."""

    def unpack(self, packed, max_bytes):
        return decompress_zlib(packed, max_bytes)


WRONG_CODECS = {
    RemembersWhatItPacked: 1,
    MarksWithALetter: (2, 3),
    MarksEverything: (2, 3),
    Naive: (2, 3),
    NeverAsksWhetherItPays: 4,
    NeverCompresses: 5,
    Guesses: 1,
    ForgetsToEscape: 1,
    HasALongMagic: 1,
    HasAMagicAndGuesses: 1,
    EscapesOneOfTwo: 1,
    UnescapesAll: 1,
    ForgetsTheInnerEscape: 1,
    TripsOverNothing: (1, 3),
    MarksWithHalfALetter: (1, 2, 3),
    KnowsTheHeadOfZlib: 1,
    StripsIt: (1, 2),
    TakesAllForText: (1, 4),
    EscapesWithTwoBytes: 4,
    LooksAnywhere: 1,
    PacksOnlyTheVeryLong: 5,
    CutsAt64KiB: 1,
    IsAsync: 0,
}
WRONG_UNPACKERS = {
    RefusesWhatGrew: 1,
    HasNoLimit: 2,
    TakesHalves: 3,
    ChecksAfterwards: 4,
    HasALimitOfItsOwn: 2,
    KeepsTheFirstLimit: (1, 2, 4),
    CutsItOff: (2, 3),
    AllowsOneTooMany: 2,
    AllowsOneTooFew: 1,
    IgnoresTheRest: 3,
    IgnoresWhiteSpaceBehind: 3,
    DistrustsHighRatios: 1,
    RefusesNothing: 1,
    NeverFails: (2, 3),
    PrintsAMessage: (2, 3),
    KeepsItsStream: 1,
    TakesGzip: 3,
    KnowsOneHead: 1,
    IgnoresTheChecksum: 3,
    FlushesTheRest: 4,
    CountsAtTheEnd: 4,
    MakesRoomFirst: (1, 4),
    GivesAByteArray: 0,
    AsyncUnpacker: 0,
}


@pytest.mark.parametrize(
    "good",
    [
        SelfDescribingCodec,
        *(
            pytest.param(good, marks=thorough)
            for good in (
                *ALTERNATIVES["say_what_it_is"],
                *(PackageCodec, PackageLz4, PackageZstd),
            )
        ),
    ],
)
async def test_right_codecs_pass(good):
    """Also those with other type bytes and other algorithms."""
    await assert_passes(say_what_it_is, good)


@pytest.mark.parametrize(
    "good",
    [
        BoundedUnpacker,
        *(
            pytest.param(good, marks=thorough)
            for good in (*ALTERNATIVES["defuse_the_bomb"], AsksForTheLimitOnly, PackageUnpacker)
        ),
    ],
)
async def test_right_unpackers_pass(good):
    """In one step or in many."""
    await assert_passes(defuse_the_bomb, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_CODECS, 6))
async def test_a_codec_that_cannot_tell_is_caught(bad, guarantee):
    """Every time, with the guarantee that it breaks."""
    await assert_fails(say_what_it_is, bad, guarantee)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_UNPACKERS, 4))
async def test_an_unpack_that_can_be_blown_up_or_fooled_is_caught(bad, guarantee):
    """Every time, with the guarantee that it breaks."""
    await assert_fails(defuse_the_bomb, bad, guarantee)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(say_what_it_is(), defuse_the_bomb())
