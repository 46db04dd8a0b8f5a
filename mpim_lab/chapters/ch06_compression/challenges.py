"""Chapter 6's challenges: say what a payload is, and defuse a bomb."""

import inspect
import random
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

from mpim_lab.chapters.ch06_compression.experiment import CompressionExperiment
from mpim_lab.lab.exercise.legacy_challenge import Challenge, Trial, TrialFailure, first_violation
from mpim_lab.lab.exercise.sandbox import ExitRequested
from mpim_lab.lab.workload.corpus import Corpus

MIB = 1024 * 1024
MAX_BYTES = 256 * 1024
MAX_MEMORY_BYTES = 4 * MAX_BYTES


class _LearnerCodec:
    """The learner's codec under the names of the package's own."""

    def __init__(self, codec: Any) -> None:
        self.encode, self.decode = codec.pack, codec.unpack


def _server_trial(fault: str, seed: int) -> Trial:
    """alice packs, bob unpacks, over a real server.

    Some messages come from a sender that does not pack.
    """

    async def judge(solution: type[Any]) -> TrialFailure | None:
        result = await CompressionExperiment(
            fault=fault, seed=seed, own=_LearnerCodec(solution())
        ).run()
        return first_violation(result, f"fault {fault!r}, seed {seed}")

    return judge


def _each(
    trial: str, payloads: Callable[[], list[bytes]], complaint: Callable[[Any, bytes], str]
) -> Trial:
    """The first payload that there is something to say against."""

    async def judge(solution: type[Any]) -> TrialFailure | None:
        codec = solution()
        for payload in payloads():
            if said := complaint(codec, payload):
                return TrialFailure(said, trial)
        return None

    return judge


def _round_trip(codec: Any, payload: bytes) -> str:
    packed = codec.pack(payload)
    back = codec.unpack(packed)
    return "" if back == payload else f"{_shown(payload)} came back as {_shown(back)}"


def _grows(codec: Any, payload: bytes) -> str:
    after = len(codec.pack(payload))
    most = len(payload) + 1
    return "" if after <= most else f"{len(payload)} bytes became {after}: {_shown(payload)}"


def _changes_text(codec: Any, payload: bytes) -> str:
    packed = codec.pack(payload)
    return (
        ""
        if packed == payload
        else f"a plain client would read {_shown(packed)} instead of {_shown(payload)}"
    )


def _stays_long(codec: Any, payload: bytes) -> str:
    after = len(codec.pack(payload))
    return (
        ""
        if after < len(payload) / 2
        else f"{len(payload):,} bytes of repetitive text became {after:,}"
    )


def _shown(payload: Any) -> str:
    return repr(payload if len(payload) <= 24 else payload[:24] + b"...")


def _texts() -> list[bytes]:
    return [line for line in Corpus(3).lines(200) if len(line) < 40]


def _binary() -> list[bytes]:
    """Every first byte, with what looks like the packed forms of others behind it.

    Compressed data; nothing.
    """
    texts = [zlib.compress(line * 3) for line in Corpus(5).lines(20)]
    firsts = [
        bytes([first]) + tail
        for first in range(256)
        for tail in (b"", b"x", texts[0], b"abc" * 200)
    ]
    return [b"", *firsts, *texts]


def _noise() -> list[bytes]:
    return [random.Random(size).randbytes(size) for size in (50, 300, 2_000)]


def say_what_it_is() -> Challenge:
    """A codec whose receiver always knows what it has before it."""
    return Challenge(
        "Say what it is",
        "Write a class with `pack(self, payload)` and `unpack(self, packed)`, both bytes to\n"
        "bytes. Long texts become less than half as long (zlib is good enough); nothing grows\n"
        "by more than one byte; short text stays exactly as it is, so that plain clients and\n"
        "old senders fit in; and whatever bytes are packed come back, also those that look like\n"
        "something packed.",
        [
            _server_trial("none", 1),
            _server_trial("old sender", 1),
            _each("short chat lines", _texts, _changes_text),
            _each(
                "long repetitive text",
                lambda: [b"see you at eight in the park. " * 100],
                _stays_long,
            ),
            _each("random bytes", _noise, _grows),
            _each("payloads that begin with each byte, and compressed ones", _binary, _round_trip),
        ],
        [
            (
                "One byte in front can say what follows. Which first bytes can a text never "
                "have? (UTF-8: none from F8 to FF.)"
            ),
            (
                "pack: if it is short or does not get shorter, leave it alone. unpack: look at "
                "the first byte, and only at that."
            ),
            (
                "A plain payload that itself begins with one of your marks needs a mark of its "
                "own, which says: plain follows."
            ),
        ],
    )


# The bomb


def _must_decode(trial: str, made: Callable[[], tuple[bytes, bytes]]) -> Trial:
    async def judge(solution: type[Any]) -> TrialFailure | None:
        packed, wanted = made()
        own = solution()  # whatever is raised here says so
        try:
            got = own.unpack(packed, MAX_BYTES)
        except Exception as error:
            return TrialFailure(
                f"an honest payload was refused: {type(error).__name__}: {error}", trial
            )
        if inspect.iscoroutine(got):
            got.close()
            return TrialFailure(
                "`unpack` returned a coroutine: write a plain `def`, nothing in it waits", trial
            )
        return (
            None
            if got == wanted
            else TrialFailure(f"{len(got):,} of {len(wanted):,} bytes came out", trial)
        )

    return judge


def _must_refuse(trial: str, made: Callable[[], bytes]) -> Trial:
    async def judge(solution: type[Any]) -> TrialFailure | None:
        packed = made()
        tracemalloc.start()
        try:
            got = solution().unpack(packed, MAX_BYTES)
            outcome = f"no error, and {len(got):,} bytes came out"
        except ExitRequested:  # that is no refusal
            raise
        except Exception:
            outcome = ""
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        if peak > MAX_MEMORY_BYTES:
            outcome = (
                f"it took more than {MAX_MEMORY_BYTES // 1024} KiB of memory "
                f"for a limit of {MAX_BYTES // 1024} KiB"
            )
        return TrialFailure(outcome, trial) if outcome else None

    return judge


def _text(size: int) -> bytes:
    return (b"see you at eight in the park. " * (size // 30 + 1))[:size]


def _bomb(size: int = 64 * MIB) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])


def defuse_the_bomb() -> Challenge:
    """An unpack that cannot be made to fill the memory, and does not take halves for wholes."""
    at_limit = (zlib.compress(_text(MAX_BYTES)), _text(MAX_BYTES))
    mixed = zlib.compress(random.Random(1).randbytes(5_000) + _text(5_000))
    return Challenge(
        "Defuse the bomb",
        "Write a class with `unpack(self, packed, max_bytes)` that undoes zlib. Whatever\n"
        "unpacks to more than max_bytes, is cut off, is followed by other bytes, or is no zlib\n"
        "at all, raises an error; never may it need much more memory than max_bytes. Everything\n"
        "else comes out whole.",
        [
            _must_decode(
                "9,000 bytes of text", lambda: (zlib.compress(_text(9_000)), _text(9_000))
            ),
            _must_decode("exactly the limit, packed very small", lambda: at_limit),
            _must_refuse("one byte above the limit", lambda: zlib.compress(_text(MAX_BYTES + 1))),
            _must_refuse("64 KB that unpack to 64 MiB", _bomb),
            _must_refuse("the last 5 bytes are missing", lambda: mixed[:-5]),
            _must_refuse("two payloads, one behind the other", lambda: mixed + mixed),
            _must_refuse("no zlib at all", lambda: b"see you at eight"),
        ],
        [
            (
                "zlib.decompressobj() has a decompress(data, max_length): it stops when so much "
                "has come out."
            ),
            "Ask for one byte more than you allow. If it comes, there is too much.",
            (
                "Afterwards `.eof` says whether the stream was whole, `.unused_data` what came "
                "behind it."
            ),
        ],
    )
