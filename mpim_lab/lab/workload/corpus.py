"""Corpus: chat in English and Chinese, as much as you like, the same for the same seed.

The lines were written for this project (`data/chat_lines.yaml`). A message is one sentence in two
cases of three, and seldom many: the number of sentences is log-normal. Half of the messages have
at most 24 bytes, one in a thousand more than 500.

What a dictionary is trained on must not be what it is tried on. Therefore the lines and templates
of the book are split in two by a checksum of their text: `lines` and all that travels draws from
one split, `samples` from the other, and each draw has its own seed. No line that is tried has a
template that was seen in training, not even "ok": it is harder than life.
"""

import functools
import json
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from mpim_lab.lab.exercise.data_files import data_path

LANGUAGES = ("en", "zh")
MAX_SENTENCES = 48
SENTENCES = (-0.5, 1.2)  # mean and deviation of the logarithm
TEST_SPLIT, TRAINING_SPLIT = 0, 1  # the two halves of the templates
# the first message of a corpus was sent at the start of 2026, UTC
FIRST_SENT_AT = 1_767_225_600_000
_SLOT = re.compile(r"\{(\w+)\}")


@functools.cache
def _load_templates() -> dict[str, Any]:
    text = data_path("chat_lines.yaml").read_text(encoding="utf-8")
    templates: dict[str, Any] = yaml.safe_load(text)
    return templates


@functools.cache
def _split(language: str, kind: str, split: int) -> tuple[str, ...]:
    """Return every line (or template) of a language whose checksum falls into that split."""
    return tuple(
        text for text in _load_templates()[language][kind] if zlib.crc32(text.encode()) % 2 == split
    )


@dataclass(frozen=True)
class Corpus:
    """Seeded chat; half of it English, half Chinese. A longer draw begins like a shorter one.

    Args:
        seed: the same seed gives the same chat.

    Examples:
        >>> Corpus(seed=7).lines(3) == Corpus(seed=7).lines(5)[:3], len(Corpus().lines(100))
        (True, 100)
        >>> sorted(json.loads(Corpus(seed=7).messages(1)[0]))
        ['from', 'text', 'to']
    """

    seed: int = 7

    def lines(self, count: int) -> list[bytes]:
        """Draw messages as they were typed.

        Args:
            count: how many.

        Returns:
            UTF-8, the text and nothing else.
        """
        return list(self._draw(f"{self.seed} lines", count, TEST_SPLIT))

    def samples(self, count: int = 20_000) -> list[bytes]:
        """Draw lines to train a dictionary on: from the other half of the templates.

        Args:
            count: how many.

        Returns:
            One of `bytes` each.
        """
        return list(self._draw(f"{self.seed} samples", count, TRAINING_SPLIT))

    def messages(self, count: int) -> list[bytes]:
        """Draw the same lines as they travel.

        Args:
            count: how many.

        Returns:
            JSON, as short as it can be, with sender, conversation and text.
        """
        return list(self._wrap(f"{self.seed} messages", self.lines(count)))

    def message_samples(self, count: int = 20_000) -> list[bytes]:
        """Draw `samples` in the form of `messages`.

        Args:
            count: how many.

        Returns:
            One of `bytes` each.
        """
        return list(self._wrap(f"{self.seed} message samples", self.samples(count)))

    def envelopes(self, count: int) -> list[bytes]:
        """Draw the same lines as a chat service stores them.

        Args:
            count: how many.

        Returns:
            JSON, also with an id (128 random bits) and a sending time.
        """
        return list(self._envelope(f"{self.seed} envelopes", self.lines(count)))

    def envelope_samples(self, count: int = 20_000) -> list[bytes]:
        """Draw `samples` in the form of `envelopes`.

        Args:
            count: how many.

        Returns:
            One of `bytes` each.
        """
        return list(self._envelope(f"{self.seed} envelope samples", self.samples(count)))

    @staticmethod
    def _draw(seed: str, count: int, split: int) -> Iterator[bytes]:
        rng = random.Random(seed)
        for _ in range(count):
            language = rng.choice(LANGUAGES)
            sentences = 1 + min(int(rng.lognormvariate(*SENTENCES)), MAX_SENTENCES - 1)
            chosen = [_sentence(language, split, rng) for _ in range(sentences)]
            once = list(dict.fromkeys(chosen))  # nobody says the same twice in one message
            yield _joined(once, language).encode()

    @staticmethod
    def _wrap(seed: str, lines: list[bytes]) -> Iterator[bytes]:
        rng = random.Random(seed)
        for line in lines:
            sender, conversation = str(1_000 + rng.randrange(500)), f"c{rng.randrange(200)}"
            yield _json({"from": sender, "to": conversation, "text": line.decode()})

    @staticmethod
    def _envelope(seed: str, lines: list[bytes]) -> Iterator[bytes]:
        rng, sent_at = random.Random(seed), FIRST_SENT_AT
        for line in lines:
            sent_at += 1 + int(rng.expovariate(1 / 400))
            head = {"id": f"{rng.getrandbits(128):032x}", "conversation": f"c{rng.randrange(200)}"}
            body = {
                "from": str(1_000 + rng.randrange(500)),
                "sent_at": sent_at,
                "text": line.decode(),
            }
            yield _json(head | body)


def _sentence(language: str, split: int, rng: random.Random) -> str:
    """Return a line as it stands, or a template with its slots filled."""
    if rng.random() < 0.5:
        return rng.choice(_split(language, "lines", split))
    slots = _load_templates()["slots"][language]
    template = rng.choice(_split(language, "templates", split))
    return _SLOT.sub(lambda slot: str(rng.choice(slots[slot[1]])), template)


def _joined(sentences: list[str], language: str) -> str:
    """Sentences as people type them: a stop between two unless there is one already."""
    stop, space = (".", " ") if language == "en" else ("，", "")
    ended = [sentence if sentence[-1] in "?!" else sentence + stop for sentence in sentences[:-1]]
    return space.join([*ended, sentences[-1]])


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
