"""Workload: seeded messages, the same ones for the same seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

PHRASES = (
    "good morning",
    "see you at eight",
    "on my way",
    "晚上一起吃饭吗",
    "did you get the tickets?",
    "好的，没问题",
    "call me when you are home",
    "the meeting moved to three",
    "马上到",
    "happy birthday!",
    "can you review my change?",
    "晚安",
)


@dataclass(frozen=True)
class Workload:
    """Seeded chat messages; each payload is "<id> <text>".

    Args:
        seed: the same seed gives the same messages.
        messages: how many.
        min_bytes: a payload that is shorter is filled up with dots.

    Examples:
        >>> [payload.split()[0] for payload in Workload(seed=1, messages=3)]
        [b'm1', b'm2', b'm3']
    """

    seed: int
    messages: int
    min_bytes: int = 0

    def __iter__(self) -> Iterator[bytes]:
        rng = random.Random(self.seed)
        for number in range(1, self.messages + 1):
            yield f"m{number} {rng.choice(PHRASES)}".encode().ljust(self.min_bytes, b".")

    def __len__(self) -> int:
        return self.messages
