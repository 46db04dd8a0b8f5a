"""Hostile payloads: 100,000 mutated frames, and bombs of 10 GB in a process that is watched."""

import random
import subprocess
import sys
from collections import Counter

import pytest

from mpim_lab.errors import UnreadablePayload
from mpim_lab.lab.workload.corpus import Corpus
from mpim_lab.mq.compression.codec import Algorithm, Codec
from mpim_lab.mq.compression.dictionary import train_dictionary
from mpim_lab.mq.compression.framing import decode_ack, decode_batch, decode_messages, encode_batch

MAX_MEMORY_MIB = 64
BOMB = """
import resource, sys, zlib, zstandard, lz4.frame
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import LZ4, ZLIB, ZSTD
from mpim_lab.errors import UnreadablePayload

GB = 10 * 1024**3
STEP = bytes(16 * 1024**2)

def mib(what):
    status = open("/proc/self/status").read()
    return int(status.partition(what + ":")[2].split()[0]) / 1024

def zlib_bomb():
    packer = zlib.compressobj(9)
    for _ in range(GB // len(STEP)):
        yield packer.compress(STEP)
    yield packer.flush()

def lz4_bomb():
    packer = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    yield packer.begin()
    once = packer.compress(STEP)
    again = packer.compress(STEP)
    yield once
    for _ in range(GB // len(STEP) - 1):
        yield again
    yield packer.flush()

def zstd_bomb(says_its_size):
    head = bytes([0xE0]) + GB.to_bytes(8, "little") if says_its_size else bytes([0x20, 100])
    block = 128 * 1024
    yield head
    for left in range(GB // block - 1, -1, -1):
        yield ((block << 3) | (1 << 1) | (left == 0)).to_bytes(3, "little") + b"0"

def many_zstd_frames():
    frame = bytes([0xA0]) + (8 * 128 * 1024).to_bytes(4, "little")  # each within the limit
    sizes = [(128 * 1024 << 3) | 2 | (left == 0) for left in range(7, -1, -1)]
    frame += b"".join(size.to_bytes(3, "little") + b"0" for size in sizes)
    yield frame * (GB // 1024**2)

def nested_bomb():
    inner = bytes([ZSTD]) + b"".join(zstd_bomb(True))
    yield Codec("zstd", max_bytes=1 << 30).compress_raw(inner)[1:]

kind = sys.argv[1]
bomb, mark = {
    "zlib": (zlib_bomb, ZLIB), "lz4": (lz4_bomb, LZ4),
    "zstd": (lambda: zstd_bomb(True), ZSTD), "zstd that lies": (lambda: zstd_bomb(False), ZSTD),
    "many zstd": (many_zstd_frames, ZSTD), "nested": (nested_bomb, ZSTD),
}[kind]
packed = bytes([mark]) + b"".join(bomb())
codec = Codec()
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted anew
before = mib("VmRSS")
try:
    codec.decode(packed)
except UnreadablePayload as error:
    print(type(error).__name__, len(packed), round(mib("VmHWM") - before, 1))
"""


def test_100_000_mutated_frames_give_a_result_or_a_named_error():
    """Every algorithm, batches and confirmations.

    Bytes changed, cut, doubled, or random from the start.
    """
    chance = random.Random(20)
    dictionary = train_dictionary(Corpus().message_samples(5_000), size_bytes=8_192)
    lines = Corpus().messages(64)
    makers = [Codec(each, threshold_bytes=0, dictionaries=[dictionary]) for each in Algorithm]
    reader = Codec(max_bytes=100_000, dictionaries=[dictionary])
    frames = [
        maker.compress(encode_batch(lines[:many], b"batches:x", 7))
        for maker in makers
        for many in (1, 8, 64)
    ]
    frames += [maker.encode(line) for maker in makers for line in lines[:8]]
    outcomes = Counter()
    for _ in range(100_000):
        payload = _mutated(bytearray(chance.choice(frames)), chance)
        for read in (
            lambda data: decode_messages(reader.decompress(data)),
            reader.decode,
            decode_batch,
            decode_ack,
        ):
            try:
                read(payload)
                outcomes["a result"] += 1
            except UnreadablePayload as error:
                outcomes[type(error).__name__] += 1
    assert set(outcomes) == {"a result", "CorruptPayload", "OversizedPayload", "UnknownFormat"}
    assert min(outcomes.values()) > 50, outcomes


def _mutated(payload, chance):
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(60))
    if kind == 1:
        return bytes(payload[: chance.randrange(len(payload) + 1)])
    if kind == 2:
        return bytes(payload) + bytes(payload[chance.randrange(len(payload)) :])
    if kind == 3:
        payload[0] = chance.randrange(0xF8, 0x100)
    for _ in range(chance.randrange(1, 6)):
        payload[chance.randrange(min(len(payload), 40 if kind == 4 else len(payload)))] = (
            chance.randrange(256)
        )
    return bytes(payload)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("zlib", "OversizedPayload"),
        ("lz4", "OversizedPayload"),
        ("zstd", "OversizedPayload"),
        ("zstd that lies", "CorruptPayload"),
        ("many zstd", "CorruptPayload"),
        ("nested", "CorruptPayload"),
    ],
)
@pytest.mark.timeout(300)
def test_a_bomb_of_10_gb_is_refused_in_little_memory(kind, error):
    """In a process of its own, whose largest size is measured.

    What unpacking adds to it is far below 64 MiB.
    """
    run = subprocess.run(
        [sys.executable, "-c", BOMB, kind], capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode == 0, run.stderr
    name, packed_bytes, grew_mib = run.stdout.split()
    assert name == error
    assert int(packed_bytes) < 50_000_000
    assert float(grew_mib) < MAX_MEMORY_MIB
    print(f"{kind}: {int(packed_bytes):,} bytes, refused in {grew_mib} MiB")
