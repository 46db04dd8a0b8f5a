"""Chapter 6: inputs for a learner's codec and unpacker, and what must come of them.

Inputs are recipes, so that a failure is short to read:

| recipe                                 | the bytes that it stands for                   |
|----------------------------------------|------------------------------------------------|
| `b"..."`                               | these                                          |
| `("times", recipe, count)`             | the same again and again                       |
| `("random", seed, size)`               | what compression does not make shorter         |
| `("join", recipe, recipe, ...)`        | one behind the other                           |
| `("start", recipe, n)`                 | its first n bytes                              |
| `("cut", recipe, n)`                   | all but its last n bytes                       |
| `("flip", recipe, place)`              | with one bit changed                           |
| `("zlib", recipe, level, window bits)` | compressed; likewise "gzip", "lz4" and so on   |
| `("packed", recipe)`                   | by the learner's own `pack`                    |
"""

import bz2
import functools
import gzip
import inspect
import random
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame
import zstandard
from hypothesis import strategies as st

from mpim_lab.events import Event, EventKind
from mpim_lab.lab.exercise.solution import Violation
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.lab.workload.corpus import Corpus

MAX_TEXT_BYTES = 40
LONG_TEXT_BYTES = 1_000
KIB = 1024
SPARE_BYTES = 512 * KIB
Recipe = Any
SENTENCE = b"see you at eight in the park. "


def make(recipe: Recipe, pack: Callable[[bytes], bytes] = bytes) -> bytes:
    """Return the bytes of a recipe."""
    if isinstance(recipe, bytes):
        return recipe
    name, *rest = recipe
    if name == "random":
        return random.Random(rest[0]).randbytes(rest[1])
    if name == "join":
        return b"".join(make(each, pack) for each in rest)
    content = make(rest[0], pack)
    if name == "times":
        return content * int(rest[1])
    if name == "start":
        return content[: rest[1]]
    if name == "cut":
        return content[: max(0, len(content) - rest[1])]
    if name == "flip":
        place = rest[1] % max(1, len(content))
        changed = bytes(each ^ 1 for each in content[place : place + 1])
        return content[:place] + changed + content[place + 1 :]
    if name == "packed":
        return pack(content)
    return _compressed(name, content, *rest[1:])


def _compressed(name: str, content: bytes, level: int = 6, window_bits: int = 15) -> bytes:
    if name == "zlib":
        packer = zlib.compressobj(level, wbits=window_bits)
        return packer.compress(content) + packer.flush()
    if name == "deflate":
        packer = zlib.compressobj(level, wbits=-15)
        return packer.compress(content) + packer.flush()
    others: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, mtime=0),
        "bz2": bz2.compress,
        "lz4": lz4.frame.compress,
        "zstd": zstandard.compress,
    }
    return others[name](content)


class _Learner:
    """The learner's object, whose errors are its own."""

    def __init__(self, solution: type[Any]) -> None:
        try:
            self._own = solution()
        except Exception as error:
            raise Violation(f"`__init__` raised {error!r}", error=error) from error

    def call(self, name: str, guarantee: int, what: str, *given: Any) -> bytes:
        """Return what a method gives: bytes. Raise Violation for anything else."""
        try:
            got = getattr(self._own, name)(*given)
        except Exception as error:
            text = f"`{name}` raised {type(error).__name__} for {what}: {error}"
            raise Violation(text, guarantee, "m1", error) from error
        return _as_bytes(name, got)

    def refuses(self, name: str, *given: Any) -> bool:
        """Return whether a method raises. Raise Violation if it gives anything but bytes."""
        try:
            got = getattr(self._own, name)(*given)
        except Exception:
            return True
        if got is not None:
            _as_bytes(name, got)
        return False


def _as_bytes(name: str, got: Any) -> bytes:
    if inspect.iscoroutine(got):
        got.close()
        raise Violation(f"`{name}` returned a coroutine: write a plain `def`, nothing in it waits")
    if not isinstance(got, bytes):
        raise Violation(f"`{name}` returned {type(got).__name__} instead of bytes")
    return got


def shown(payload: bytes) -> str:
    """Return the beginning of a payload, and how long it is if that is not all."""
    if len(payload) <= 24:
        return repr(payload)
    return f"{payload[:24]!r}… ({len(payload):,} bytes)"


def _report(trace: Trace, kind: EventKind, actor: str, detail: str) -> None:
    trace(Event(kind, float(len(trace.events)), actor, "m1", "", detail=detail))


# say_what_it_is


def play_codec(sender: type[Any], receiver: type[Any], recipe: Recipe, trace: Trace) -> None:
    """Pack in one process, unpack in another one."""
    alice, bob = _Learner(sender), _Learner(receiver)

    def pack(content: bytes) -> bytes:
        return alice.call("pack", 1, shown(content), content)

    payload = make(recipe, pack)
    _report(trace, EventKind.ACCEPTED, "alice", shown(payload))
    packed = pack(payload)
    _report(trace, EventKind.PUBLISHED, "alice", shown(packed))
    pack(b"something else")
    if _is_plain_text(payload):
        _check_text(bob, payload, packed)
    if len(packed) > len(payload) + 1:
        text = f"{len(payload):,} bytes became {len(packed):,}: {shown(payload)}"
        raise Violation(text, 4, "m1")
    if _repeats_itself(recipe) and len(packed) >= len(payload) / 2:
        text = f"{len(payload):,} bytes of repetitive text became {len(packed):,}"
        raise Violation(text, 5, "m1")
    back = bob.call("unpack", 1, f"{shown(packed)}, packed of {shown(payload)}", packed)
    _report(trace, EventKind.HANDLED, "bob", shown(back))
    if back != payload:
        raise Violation(f"{shown(payload)} came back as {shown(back)}", 1, "m1")


def _check_text(bob: _Learner, text: bytes, packed: bytes) -> None:
    is_short = len(text) <= MAX_TEXT_BYTES and len(_compressed("deflate", text, 9)) >= len(text)
    if is_short and packed != text:
        complaint = f"an old client would read {shown(packed)} instead of {shown(text)}"
        raise Violation(complaint, 2, "m1")
    read = bob.call("unpack", 3, f"{shown(text)}, sent by an old client", text)
    if read != text:
        complaint = f"{shown(text)}, sent by an old client, was unpacked as {shown(read)}"
        raise Violation(complaint, 3, "m1")


def _is_plain_text(payload: bytes) -> bool:
    try:
        return all(each.isprintable() or each == " " for each in payload.decode())
    except UnicodeDecodeError:
        return False


def _repeats_itself(recipe: Recipe) -> bool:
    if not (isinstance(recipe, tuple) and recipe[0] == "times" and isinstance(recipe[1], bytes)):
        return False
    unit, count = recipe[1], recipe[2]
    is_long = len(unit) * count >= LONG_TEXT_BYTES and count >= 10
    return is_long and _is_plain_text(unit) and len(unit) > 0


_LINES = Corpus(3).lines(60)
# One for each first byte that a UTF-8 text can have.
_FIRST_LETTERS = (
    *range(0x20, 0x7F),
    *range(0xA1, 0x800, 0x40),
    *range(0x905, 0xD800, 0x1000),
    *(0xD105, 0xFF01, 0x1F600, 0x20000),
)
_SENTENCES: tuple[Recipe, ...] = (("times", SENTENCE, 100), ("times", SENTENCE, 4), *_LINES[:8])
_PACKED = ("packed", ("times", SENTENCE, 40))
FIRST_PAYLOADS: list[Recipe] = [
    ("times", SENTENCE, 100),
    *(line for line in _LINES if len(line) <= MAX_TEXT_BYTES),
    b"",
    *(("random", size, size) for size in (1, 50, 300, 2_000)),
    *(f"{chr(code)} in the park".encode() for code in _FIRST_LETTERS),
    *(bytes([first]) for first in range(256)),
    *(("join", bytes([first]), b"abc" * 9) for first in range(256)),
    *(("join", bytes([first]), ("zlib", SENTENCE * 3)) for first in range(256)),
    *(("join", bytes([first]), ("times", SENTENCE, 9)) for first in range(256)),
    *(("random", size, size) for size in range(30, 130, 7)),
    *((name, ("times", SENTENCE, 9)) for name in ("zlib", "deflate", "gzip", "bz2", "lz4", "zstd")),
    _PACKED,
    ("packed", _PACKED),
    ("packed", ("random", 1, 300)),
    *(("start", _PACKED, size) for size in range(1, 12)),
    *(("join", ("start", _PACKED, size), b" tail") for size in range(1, 12)),
    *(("cut", _PACKED, size) for size in (1, 4, 9)),
    ("join", _PACKED, _PACKED),
    ("join", _PACKED, b"x"),
    ("times", SENTENCE, 3_000),
]


def payloads() -> st.SearchStrategy[Recipe]:
    """Return a strategy for payloads: text, bytes, and what looks as if it were packed."""
    text = st.text(max_size=60)
    plain: st.SearchStrategy[Recipe] = (
        st.sampled_from(_SENTENCES)
        | text.map(lambda each: each.encode())
        | st.binary(max_size=80)
        | st.tuples(st.just("random"), st.integers(0, 9), st.integers(0, 600))
        | st.tuples(st.just("times"), st.binary(max_size=12), st.integers(0, 400))
        | st.tuples(
            st.just("times"), text.map(lambda each: each.encode()), st.sampled_from((10, 40, 999))
        )
    )

    def larger(inner: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
        start = st.tuples(st.just("start"), inner, st.integers(0, 40))
        return (
            st.tuples(st.just("packed"), inner)
            | st.tuples(st.sampled_from(("zlib", "deflate", "gzip", "lz4", "zstd")), inner)
            | start
            | st.tuples(st.just("cut"), inner, st.integers(1, 9))
            | st.tuples(st.just("flip"), inner, st.integers(0, 60))
            | st.tuples(st.just("join"), start | st.binary(min_size=1, max_size=2), inner)
            | st.tuples(st.just("join"), inner, st.binary(max_size=3))
        )

    return st.recursive(plain, larger, max_leaves=4)


# defuse_the_bomb


@functools.lru_cache(maxsize=64)
def _made_stream(recipe: Recipe) -> bytes:
    """Make a bomb once: it takes longer than to refuse it."""
    return make(recipe)


def play_unpacker(solution: type[Any], given: list[tuple[Recipe, int]], trace: Trace) -> None:
    """Unpack one payload after the other with one object."""
    own = _Learner(solution)
    for recipe, max_bytes in given:
        packed = _made_stream(recipe)
        wanted, why_not = _unpacked(packed, max_bytes)
        _report(trace, EventKind.RECEIVED, "bob", shown(packed))
        tracemalloc.start()
        try:
            if wanted is not None:
                what = f"honest bytes (max_bytes={max_bytes:,})"
                got = own.call("unpack", 1, what, packed, max_bytes)
                if got != wanted:
                    text = f"{len(got):,} of {len(wanted):,} bytes came out, or others"
                    raise Violation(text, 1, "m1")
            elif not own.refuses("unpack", packed, max_bytes):
                number = 2 if why_not == "too large" else 3
                text = f"no error for what is {why_not} (max_bytes={max_bytes:,})"
                raise Violation(text, number, "m1")
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        limit_bytes = 4 * max_bytes + 2 * len(packed) + SPARE_BYTES
        if peak_bytes > limit_bytes:
            text = f"it took more than {limit_bytes // KIB:,} KiB of memory"
            raise Violation(f"{text} (max_bytes={max_bytes:,})", 4, "m1")


def _unpacked(packed: bytes, max_bytes: int) -> tuple[bytes | None, str]:
    """Return what must come out, or None and why it must be refused."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(packed, max_bytes + 1)
    except zlib.error:
        return None, "no zlib, or changed"
    if len(out) > max_bytes:
        return None, "too large"
    if not stream.eof:
        return None, "cut off"
    return (None, "followed by other bytes") if stream.unused_data else (out, "")


_LIMIT = 64 * KIB
_MIXED = ("join", ("random", 1, 5_000), ("times", SENTENCE, 100))
_BOMB = ("zlib", ("times", ("times", b"\0", KIB), 64 * KIB), 9)
FIRST_STREAMS: list[list[tuple[Recipe, int]]] = [
    [(("zlib", ("times", SENTENCE, 300)), 256 * KIB)],
    [(("zlib", ("times", b"x", _LIMIT + 1)), _LIMIT)],
    [(_BOMB, 256 * KIB)],
    [(_BOMB, 1)],
    [(("cut", _BOMB, 5), 256 * KIB)],
    [(("zlib", ("times", b"x", _LIMIT)), _LIMIT)],
    [(("zlib", ("random", 1, _LIMIT)), _LIMIT)],
    [(("zlib", ("random", 1, _LIMIT + 1)), _LIMIT)],
    [(("zlib", b""), _LIMIT)],
    [(("zlib", b""), 1)],
    [(("zlib", b"x"), 1)],
    [(("zlib", b"xy"), 1)],
    *([(("cut", ("zlib", _MIXED), size), _LIMIT)] for size in (5, 1, 4, 3_000)),
    [(("cut", ("zlib", ("times", b"x", _LIMIT)), 1), _LIMIT)],
    [(b"", _LIMIT)],
    [(("join", ("zlib", _MIXED), ("zlib", _MIXED)), _LIMIT)],
    [(("join", ("zlib", _MIXED), b"\0"), _LIMIT)],
    [(("join", ("zlib", ("times", b"x", _LIMIT)), b"\n"), _LIMIT)],
    [(("join", ("zlib", b""), b"x"), _LIMIT)],
    [(b"see you at eight", _LIMIT)],
    *([((name, _MIXED), _LIMIT)] for name in ("gzip", "deflate", "bz2", "lz4", "zstd")),
    [(("flip", ("zlib", _MIXED), place), _LIMIT) for place in (-1, 2_000)],
    *([(("zlib", _MIXED, level, bits), _LIMIT)] for level in (0, 1, 9) for bits in (9, 15)),
    [(("cut", ("zlib", _MIXED), 5), _LIMIT), (("zlib", _MIXED), _LIMIT), (_BOMB, _LIMIT)],
    [(("zlib", SENTENCE), _LIMIT)] * 2,
    [(("zlib", ("times", SENTENCE, 100_000)), 4 * KIB * KIB)],
]


def streams() -> st.SearchStrategy[list[tuple[Recipe, int]]]:
    """Return a strategy for what an unpacker is given: honest, too large, and broken."""
    content: st.SearchStrategy[Recipe] = st.one_of(
        st.binary(max_size=40),
        st.tuples(st.just("random"), st.integers(0, 3), st.integers(0, 70_000)),
        st.tuples(st.just("times"), st.binary(max_size=30), st.integers(0, 30_000)),
        st.just(_MIXED),
    )
    packed: st.SearchStrategy[Recipe] = st.tuples(
        st.just("zlib"), content, st.sampled_from((0, 1, 6, 9)), st.sampled_from((9, 12, 15))
    )
    broken = (
        st.tuples(st.just("cut"), packed, st.integers(1, 60))
        | st.tuples(st.just("start"), packed, st.integers(0, 60))
        | st.tuples(st.just("flip"), packed, st.integers(-8, 400))
        | st.tuples(st.just("join"), packed, st.binary(min_size=1, max_size=9) | packed)
        | st.tuples(st.just("join"), st.binary(min_size=1, max_size=9), packed)
        | st.tuples(st.sampled_from(("gzip", "deflate", "lz4")), content)
        | st.just(_BOMB)
    )
    near = st.tuples(packed, st.integers(-2, 2)).map(_with_near_limit)
    limit = st.sampled_from((1, 100, 4_096, _LIMIT, KIB * KIB))
    return st.lists(near | st.tuples(packed | broken, limit), min_size=1, max_size=3)


def _with_near_limit(given: tuple[Recipe, int]) -> tuple[Recipe, int]:
    """Give a stream the limit that it just keeps, or just does not."""
    recipe, distance = given
    return recipe, max(1, len(make(recipe[1])) + distance)
