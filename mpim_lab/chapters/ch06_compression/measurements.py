"""Chapter 6's cost, measured here and now: bytes saved against CPU spent, by algorithm and by size.

The bytes are the same in every run (of the same libraries); the microseconds are this machine's,
now.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from statistics import median
from typing import Any

import pandas as pd

from mpim_lab.chapters.ch06_compression.scenario import chat_dictionary
from mpim_lab.events import now
from mpim_lab.lab.workload.corpus import Corpus
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.dictionary import ZstdDictionary
from mpim_lab.mq.compression.framing import encode_batch
from mpim_lab.mq.connection.bounds import check_bounds

Row = dict[str, Any]
ALGORITHMS = ("zlib", "lz4", "zstd", "zstd-dictionary")
SIZES = (16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536)
MEASURE_S = 0.02


def always(dictionary: ZstdDictionary) -> dict[str, Callable[[bytes], bytes]]:
    """Every algorithm without threshold and without mercy: also where it makes a message longer."""
    return {name: Codec(name, dictionaries=[dictionary]).compress_raw for name in ALGORITHMS}


def message_table(count: int = 2_000, *, dictionary: ZstdDictionary | None = None) -> pd.DataFrame:
    """Chat messages, one by one, through every algorithm.

    What becomes of the median one, and how many grow.

    Columns: algorithm, median bytes, times smaller (at the median; below 1: larger), messages that
    grew %, all bytes %.
    """
    check_bounds(1, 1_000_000, count=count)
    messages = Corpus().messages(count)
    before, total = [len(message) for message in messages], sum(map(len, messages))
    rows = [("none", median(before), 1.0, 0.0, 100.0)]
    for name, pack in always(dictionary or chat_dictionary()).items():
        after = [len(pack(message)) for message in messages]
        grew = sum(now_ > was for now_, was in zip(after, before, strict=True)) / count * 100
        smaller = median(was / now_ for now_, was in zip(after, before, strict=True))
        rows.append((name, median(after), smaller, grew, sum(after) / total * 100))
    columns = ["algorithm", "median bytes", "times smaller", "messages that grew %", "all bytes %"]
    return pd.DataFrame(rows, columns=columns).set_index("algorithm")


def texts_of(size: int, count: int = 20) -> list[bytes]:
    """Chat text cut to exactly `size` bytes, as one long message or a batch would be."""
    joined = b"".join(Corpus(11).messages(max(200, size * count // 30)))
    return [joined[start : start + size] for start in range(0, size * count, size)]


async def size_sweep(sizes: Sequence[int] = SIZES) -> AsyncIterator[Row]:
    """Each size through each algorithm.

    Columns: bytes, algorithm, left %, pack µs, unpack µs, saved bytes a µs.

    left %: how many of the bytes are left, mark included; above 100 it grew. saved bytes a µs: what
    a microsecond of CPU, both ends together, takes off the wire.
    """
    check_bounds(1, 10_000_000, sizes=sizes)
    dictionary = chat_dictionary()
    reader = Codec("none", dictionaries=[dictionary])
    for size in sizes:
        texts = texts_of(size)
        for name, pack in always(dictionary).items():
            packed = [pack(text) for text in texts]
            left = sum(map(len, packed)) / sum(map(len, texts)) * 100
            pack_us = _microseconds(pack, texts)
            unpack_us = _microseconds(reader.decompress, packed)
            saved = size * (1 - left / 100) / (pack_us + unpack_us)
            yield {
                "bytes": size,
                "algorithm": name,
                "left %": left,
                "pack µs": pack_us,
                "unpack µs": unpack_us,
                "saved bytes a µs": saved,
            }
            await asyncio.sleep(0)  # a stop button must be heard


def _microseconds(work: Callable[[bytes], bytes], inputs: Sequence[bytes]) -> float:
    """The median over rounds of the time for one input."""
    rounds: list[float] = []
    give_up_at = now() + MEASURE_S
    while len(rounds) < 3 or now() < give_up_at:
        begun = now()
        for each in inputs:
            work(each)
        rounds.append((now() - begun) / len(inputs) * 1e6)
    return median(rounds)


def batched_table(
    batch_sizes: Sequence[int] = (1, 4, 16, 64, 256), *, dictionary: ZstdDictionary | None = None
) -> pd.DataFrame:
    """Chat messages in batches of so many, each batch compressed as one.

    Bytes left in percent, by algorithm.
    """
    check_bounds(1, 1_024, batch_sizes=batch_sizes)
    messages = Corpus().messages(1_024)
    rows = {}
    for name, pack in always(dictionary or chat_dictionary()).items():
        sizes = []
        for size in batch_sizes:
            frames = [
                encode_batch(messages[start : start + size])
                for start in range(0, len(messages), size)
            ]
            sizes.append(sum(len(pack(frame)) for frame in frames) / sum(map(len, messages)) * 100)
        rows[name] = sizes
    return pd.DataFrame(rows, index=pd.Index(batch_sizes, name="messages in a batch"))
