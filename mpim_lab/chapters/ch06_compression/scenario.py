"""CompressionScenario of chapter 6: alice packs, bob unpacks.

Beside her an old sender, a new one, and a hostile one.
"""

import contextlib
import functools
import zlib
from collections.abc import Sequence
from typing import Any

from mpim_lab.chapters.ch06_compression.naive import NaiveCodec
from mpim_lab.chapters.shared.scenario import Scenario, Server
from mpim_lab.events import EventKind, Reporter, message_id
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault
from mpim_lab.lab.workload.corpus import Corpus
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.dictionary import ZstdDictionary, train_dictionary
from mpim_lab.mq.compression.framing import ZLIB, encode_plain
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue

CHANNEL = "user:1001"
BOMB_BYTES = 64 * 1024 * 1024  # what the bomb becomes; the real ones do not stop here
CHANGED = "changed"  # on the way, so its sender is alice
SENDERS = {"old sender": "carol", "new sender": "dave", "cut off": "eve", "bomb": "mallory"}


@functools.cache
def chat_dictionary(id: int = 1) -> ZstdDictionary:
    """A dictionary of the lab's chat messages, trained when it is first asked for.

    It takes half a second.
    """
    return train_dictionary(Corpus().message_samples(), id=id)


class CompressionScenario(Scenario):
    """The scenario of chapter 6: one message after the other.

    Those that the fault hits come from another sender.
    """

    limits = ConnectionConfig()

    def __init__(self, server: Server, run: Run, codec: Any, planned: Sequence[Fault]) -> None:
        super().__init__(server, run, planned)
        self._dictionary = None
        if "new sender" in self.fault_of.values():
            self._dictionary = chat_dictionary()
        self._codec = codec
        if self._dictionary is not None and isinstance(codec, Codec):
            self._codec = Codec(codec.algorithm, dictionaries=[self._dictionary])
        self.bytes_before = self.bytes_after = self.most_bytes = 0
        self.misread: list[str] = []
        self._changed: dict[bytes, bytes] = {}  # packed, one bit changed → what it was before
        # Packed → payload, to name in the trace what cannot be read.
        self._packed: dict[bytes, bytes] = {}
        self._senders: MessageQueue = self.queue("", server.url, observer=None)
        self._bob: MessageQueue = self.queue("bob")

    async def open(self) -> None:
        """Open the queues, and have bob listen."""
        await self.parts.enter_async_context(self._senders)
        await self.parts.enter_async_context(self._bob)
        await self._bob.subscribe(CHANNEL, _handle, decode=self._unpack)

    async def finish(self) -> None:
        """Nothing is still going on."""

    async def send(self, payload: bytes) -> None:
        """One message, from alice, or from whoever has the fault's part.

        Then bob has it, or has refused it.
        """
        fault = self.fault_of.get(message_id(payload), "")
        reporter = Reporter(SENDERS.get(fault, "alice"), self.trace)
        packed = self._pack(payload, fault)
        self._packed[packed] = payload
        if not fault:
            self.bytes_before += len(payload)
            self.bytes_after += len(packed)
        reporter.message(EventKind.ACCEPTED, payload, CHANNEL)
        receivers = await self._senders.publish(CHANNEL, packed)
        reporter.message(EventKind.PUBLISHED, payload, CHANNEL, count=receivers)
        await self._bob.drain()

    def _pack(self, payload: bytes, fault: str) -> bytes:
        if fault == "old sender":
            return encode_plain(payload)
        if fault == "new sender":
            assert self._dictionary is not None
            return Codec(
                "zstd-dictionary", threshold_bytes=0, dictionaries=[self._dictionary]
            ).encode(payload)
        if fault == "cut off":
            packed: bytes = self._codec.encode(payload * 20)
            return packed[:-4]
        if fault == "bomb":
            return self._bomb(payload)
        if fault == CHANGED:
            return self._change(payload * 20)
        return self._codec.encode(payload)  # type: ignore[no-any-return]

    def _bomb(self, payload: bytes) -> bytes:
        """64 MiB in 64 KB, as the receiver's own format wants it."""
        packer = zlib.compressobj(9)
        parts = [packer.compress(payload)]
        parts += [packer.compress(bytes(1024 * 1024)) for _ in range(BOMB_BYTES // 1024 // 1024)]
        packed = b"".join([*parts, packer.flush()])
        return packed if isinstance(self._codec, NaiveCodec) else bytes([ZLIB]) + packed

    def _change(self, text: bytes) -> bytes:
        """One bit changed, where it does the most harm.

        It is read, as another text of the same name, if that can be.
        """
        packed: bytes = self._codec.encode(text)
        name = text[: text.index(b" ") + 1]
        changed = packed
        for place in range(len(packed) - 1, 0, -1):
            changed = packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]
            with contextlib.suppress(Exception):
                got: bytes = self._codec.decode(changed)
                if got != text and got.startswith(name):
                    break
        self._changed[changed] = text
        return changed

    def _unpack(self, packed: bytes) -> list[bytes]:
        try:
            payload: bytes = self._codec.decode(packed)
        except Exception as error:
            sent = self._packed[packed]
            self._bob.reporter.message(EventKind.FAILED, sent, CHANNEL, error=error)
            return []
        self.most_bytes = max(self.most_bytes, len(payload))
        if payload != self._changed.get(packed, payload):
            self.misread.append(message_id(payload))
        return [payload]


def _handle(message: Message) -> None:
    """bob reads."""
