"""Corpus: chat lines in English and Chinese, as many as you like, the same for the same seed.

Written for this project (`data/chat_lines.yaml`). Chat is mostly short: of ten messages about five are a word or two, four
a sentence, one is longer. What a dictionary is trained on must not be what it is tried on, so the templates of a corpus
are split in two halves, and `samples` draws from one, `lines` and `messages` from both: half of what is tried was never
seen in training, as in life.
"""

import functools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from mpim_lab.lab.questions import data_path

WEIGHTS = {"short": 5, "medium": 4, "long": 1}
_SLOT = re.compile(r"\{(\w+)\}")


@functools.cache
def _book() -> dict[str, Any]:
    book: dict[str, Any] = yaml.safe_load(data_path("chat_lines.yaml").read_text(encoding="utf-8"))
    return book


@dataclass(frozen=True)
class Corpus:
    """Seeded chat; half of it English, half Chinese.

    >>> Corpus(seed=7).lines(3) == Corpus(seed=7).lines(3), len(Corpus().lines(100))
    (True, 100)
    """

    seed: int = 7

    def lines(self, count: int) -> list[bytes]:
        """So many messages, UTF-8: what was typed, and nothing else."""
        return list(self._draw(f"{self.seed} lines", count, every=1))

    def samples(self, count: int = 20_000) -> list[bytes]:
        """So many messages to train a dictionary on: another draw, and of every other template only."""
        return list(self._draw(f"{self.seed} samples", count, every=2))

    def messages(self, count: int) -> list[bytes]:
        """The same lines as they travel: JSON with sender and conversation, half of them below 50 bytes."""
        return list(self._wrap(f"{self.seed} messages", self.lines(count)))

    def message_samples(self, count: int = 20_000) -> list[bytes]:
        """`samples` in that form."""
        return list(self._wrap(f"{self.seed} message samples", self.samples(count)))

    def _draw(self, seed: str, count: int, every: int) -> Iterator[bytes]:
        chance, book = random.Random(seed), _book()
        lengths, weights = list(WEIGHTS), list(WEIGHTS.values())
        for _ in range(count):
            language = chance.choice(("en", "zh"))
            template = chance.choice(book[language][chance.choices(lengths, weights)[0]][::every])
            yield _fill(str(template), book["slots"][language], chance).encode()

    @staticmethod
    def _wrap(seed: str, lines: list[bytes]) -> Iterator[bytes]:
        chance = random.Random(seed)
        for line in lines:
            sender, conversation = str(1_000 + chance.randrange(500)), f"c{chance.randrange(200)}"
            envelope = {"from": sender, "to": conversation, "text": line.decode()}
            yield json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()


def _fill(template: str, slots: dict[str, list[str]], chance: random.Random) -> str:
    return _SLOT.sub(lambda slot: str(chance.choice(slots[slot[1]])), template)
