"""Chapter 6's challenges: say what a payload is, and defuse a bomb."""

from typing import Protocol

from mpim_lab.chapters.ch06_compression.codec_model import (
    FIRST_PAYLOADS,
    FIRST_STREAMS,
    MAX_TEXT_BYTES,
    SPARE_BYTES,
    payloads,
    play_codec,
    play_unpacker,
    streams,
)
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.model_check import ModelCheck


class LearnerCodec(Protocol):
    """What a solution of `say_what_it_is` looks like."""

    def pack(self, payload: bytes) -> bytes:
        """Return a payload as it travels."""
        ...

    def unpack(self, packed: bytes) -> bytes:
        """Return the payload of what another object of the class packed, or of a plain sender's."""
        ...


class LearnerUnpacker(Protocol):
    """What a solution of `defuse_the_bomb` looks like."""

    def unpack(self, packed: bytes, max_bytes: int) -> bytes:
        """Return what zlib makes of it. Raise an error if that is more than `max_bytes`."""
        ...


def say_what_it_is() -> Challenge:
    """A codec whose receiver always knows what it has before it."""
    return Challenge(
        "Say what it is",
        "Write a class with `pack(self, payload)` and `unpack(self, packed)`, both plain methods\n"
        "from bytes to bytes; zlib is good enough. Sender and receiver are two processes: nothing\n"
        "that one remembers is known to the other. There are old clients, too, which know nothing\n"
        "of packing: they send and read plain text (UTF-8 without control characters).",
        examiner=ModelCheck(
            play_codec, payloads(), always=FIRST_PAYLOADS, budget=1_500, processes=2
        ),
        interface=LearnerCodec,
        module=__name__,
        name="say_what_it_is",
        guarantees=(
            "Whatever bytes are packed come back, also those that look like something packed: by"
            " anybody, also by you, whole or the beginning of it.",
            f"Plain text of up to {MAX_TEXT_BYTES} bytes that compression would not make shorter is"
            " packed as it is, so that old clients can read it.",
            "Plain text of any length that an old client sends is unpacked as it is.",
            "Nothing grows by more than one byte.",
            "Text of 1,000 bytes or more that repeats itself becomes less than half as long.",
        ),
        hints=[
            "One byte in front can say what follows. Which first bytes can a text never have?"
            " (UTF-8: none from F8 to FF.)",
            "pack: if it is short or does not get shorter, leave it alone. unpack: look at the"
            " first byte, and only at that.",
            "A plain payload that itself begins with one of your type bytes needs a type byte of"
            " its own, which says: plain follows.",
        ],
        difficulty=1,
        minutes=20,
    )


def defuse_the_bomb() -> Challenge:
    """An unpack that cannot be made to fill the memory, and does not take halves for wholes."""
    return Challenge(
        "Defuse the bomb",
        "Write a class with `unpack(self, packed, max_bytes)`, a plain method that undoes zlib:\n"
        "RFC 1950, any level and any window, no dictionary. max_bytes is 1 or more. One object\n"
        "unpacks many payloads. Any Exception is a refusal; returning something is not.",
        examiner=ModelCheck(play_unpacker, streams(), always=FIRST_STREAMS, budget=400),
        interface=LearnerUnpacker,
        module=__name__,
        name="defuse_the_bomb",
        guarantees=(
            "What unpacks to max_bytes or less comes out whole: also nothing, also what was not"
            " made shorter, also what was made a thousand times shorter.",
            "What unpacks to more than max_bytes is refused.",
            "What is cut off, changed, followed by other bytes, or no zlib at all, is refused.",
            "No call needs more memory than 4 times max_bytes, 2 times the packed bytes, and"
            f" {SPARE_BYTES // 1024} KiB.",
        ),
        hints=[
            "zlib.decompressobj() has a decompress(data, max_length): it stops when so much has"
            " come out.",
            "Ask for one byte more than you allow. If it comes, there is too much.",
            "Afterwards `.eof` says whether the stream was whole, `.unused_data` what came behind"
            " it.",
        ],
        difficulty=2,
        minutes=20,
    )
