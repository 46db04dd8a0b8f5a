"""ZstdDictionary: what chat lines have in common, learned once and known to both ends.

A compressor finds repeats, and a line of 30 bytes has none within itself. With a dictionary its
repeats are found in the samples from which that was trained. Both ends must have the same one: the
frame names it by number.

Source: https://facebook.github.io/zstd/ ("the case for small data compression") and RFC 8878,
section 5.
"""

from collections.abc import Sequence
from functools import cached_property

import zstandard

from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.connection.bounds import check_bounds

MAX_BYTES = 1024 * 1024


class ZstdDictionary:
    """A trained Zstandard dictionary.

    Its `id` takes one byte of every frame up to 255, above that two or four.

    Args:
        content: The dictionary; may be kept in a file and sent to whoever needs it.

    Raises:
        InvalidParameter: It is no dictionary.
    """

    def __init__(self, content: bytes) -> None:
        if not 256 <= len(content) <= MAX_BYTES or content[:4] != b"\x37\xa4\x30\xec":
            raise InvalidParameter(
                "no Zstandard dictionary: those begin with 37 A4 30 EC and have 256 bytes to 1 MiB"
            )
        self.content = content
        self.id = int.from_bytes(content[4:8], "little")
        if not self.id:
            raise InvalidParameter("a dictionary needs a number above 0: receivers find it by that")
        try:
            zstandard.ZstdDecompressor(dict_data=self.prepared)
        except zstandard.ZstdError as error:
            raise InvalidParameter(
                f"behind its head this is no Zstandard dictionary: {error}"
            ) from error

    @cached_property
    def prepared(self) -> zstandard.ZstdCompressionDict:
        """As the compressor wants it."""
        return zstandard.ZstdCompressionDict(self.content)

    def __repr__(self) -> str:
        return f"Dictionary {self.id}, {len(self.content):,} bytes"


def train_dictionary(
    samples: Sequence[bytes], *, size_bytes: int = 32 * 1024, id: int = 1
) -> ZstdDictionary:
    """Learn a dictionary from typical messages. The same samples give the same one.

    Args:
        samples: Some thousands, a hundred times the size of the dictionary in all if you have them.
        size_bytes: About how large it is to be.
        id: The number by which receivers find it.

    Returns:
        The dictionary.

    Raises:
        InvalidParameter: There are too few samples to learn from.
    """
    check_bounds(256, MAX_BYTES, size_bytes=size_bytes)
    check_bounds(1, 2**31 - 1, id=id)
    # Of ten samples of one byte, zstandard 0.25 divides by zero, which ends the process.
    if sum(map(len, samples)) < max(256, 8 * len(samples)):
        raise InvalidParameter(f"{len(samples):,} samples are too few, or too short, to learn from")
    try:
        trained = zstandard.train_dictionary(size_bytes, list(samples), dict_id=id, level=19)
    except (zstandard.ZstdError, ValueError, TypeError) as error:
        raise InvalidParameter(
            f"{len(samples):,} samples are too few, or too short, to learn from: {error}"
        ) from error
    return ZstdDictionary(trained.as_bytes())
