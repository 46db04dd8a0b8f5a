"""Options say at once, and by name, that a number makes no sense: nothing waits, opens or starts with it."""

import inspect
import math

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayLimits, Services
from mpim_lab.im.gateway.gateway import Gateway
from mpim_lab.im.services.groups import Groups
from mpim_lab.im.services.messages import Messages
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.im.services.outbox import Outbox
from mpim_lab.im.services.presence import Presence
from mpim_lab.im.services.tokens import Tokens, new_secret
from mpim_lab.im.system import System
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.flow_control import Credit
from mpim_lab.mq.batching.policies import Adaptive, Counted, FixedWindow
from mpim_lab.mq.batching.transports import EntryCarrier
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.dictionary import train_dictionary
from mpim_lab.mq.idempotency.sql_database import SqlStore
from mpim_lab.mq.idempotency.sql_outbox import OutboxRelay, SqlOutbox
from mpim_lab.mq.pool.pool import Pool
from mpim_lab.mq.pubsub.confirmed import AckedPublisher, AckingSubscriber
from mpim_lab.mq.pubsub.queue import MessageQueue

URL, DATABASE = "redis://127.0.0.1:1", "sqlite+aiosqlite://"
NO_NUMBERS = ["5", True, None]
# Infinite may be: "never", and nothing else waits for it.
NEVER = {"check_idle_after_s", "max_idle_s", "max_lifetime_s", "leak_warning_s"}
ALLOWED_NONE = {"threshold_bytes", "level"}


def queue():
    return MessageQueue(URL)


def messages():
    return Messages(queue(), Groups(SqlStore(DATABASE), queue()), OfflineStore(SqlStore(DATABASE)))


def services():
    return Services(queue(), Presence(queue()), messages().groups, messages(), Tokens(new_secret()))


MADE = [
    (Pool, lambda **options: Pool(URL, **options)),
    (Batcher, lambda **options: Batcher(EntryCarrier(queue().stream("s")), **options)),
    (FixedWindow, FixedWindow),
    (Adaptive, Adaptive),
    (Counted, Counted),
    (Credit, Credit),
    (Codec, Codec),
    (train_dictionary, lambda **options: train_dictionary([b"see you at eight"] * 100, **options)),
    (SqlStore, lambda **options: SqlStore(DATABASE, **options)),
    (OutboxRelay, lambda **options: OutboxRelay(SqlOutbox(SqlStore(DATABASE)), queue(), **options)),
    (AckedPublisher, lambda **options: AckedPublisher(queue(), "bob", **options)),
    (AckingSubscriber, lambda **options: AckingSubscriber(queue(), "bob", print, **options)),
    (System, lambda **options: System(URL, database=DATABASE, **options)),
    (GatewayLimits, GatewayLimits),
    (Gateway, lambda **options: Gateway("gw-1", services(), **options)),
    (Client, lambda **options: Client("ws://127.0.0.1:1/ws", str, **options)),
    (Groups, lambda **options: Groups(SqlStore(DATABASE), queue(), **options)),
    (Presence, lambda **options: Presence(queue(), **options)),
    (OfflineStore, lambda **options: OfflineStore(SqlStore(DATABASE), **options)),
    (Outbox, lambda **options: Outbox(messages(), **options)),
    (Tokens, lambda **options: Tokens(new_secret(), **options)),
]


def numbers(made):
    """Its options that are numbers, by their defaults."""
    for name, parameter in inspect.signature(made).parameters.items():
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            yield name, parameter.default


@pytest.mark.parametrize(("made", "make"), MADE, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_number_that_makes_no_sense_is_refused_by_its_name(made, make):
    """Not a number at all, below nothing, without an end where somebody would wait for it, too large for any server."""
    named = list(numbers(made))
    assert named
    for name, default in named:
        bad = [-1, math.nan, *NO_NUMBERS] + ([] if name in NEVER else [math.inf, 10**30])
        bad += [1.5] if isinstance(default, int) and not name.endswith("_s") else []
        for value in bad:
            with pytest.raises(InvalidParameter, match=f"{name}="):
                make(**{name: value})
