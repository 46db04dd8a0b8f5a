"""Options say at once, and by name, that a number makes no sense: nothing starts with it."""

import inspect
import math

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayConfig, GatewayServices
from mpim_lab.im.gateway.gateway import Gateway
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.messages import MessageService
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.im.services.outbox import OutboxWorker
from mpim_lab.im.services.presence import Presence
from mpim_lab.im.services.tokens import TokenService, new_secret
from mpim_lab.im.system import ImSystem
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.flow_control import CreditWindow
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow, SizeOnly
from mpim_lab.mq.batching.transports import StreamTransport
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.dictionary import train_dictionary
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
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
    return MessageService(
        queue(), GroupService(SqlDatabase(DATABASE), queue()), OfflineStore(SqlDatabase(DATABASE))
    )


def services():
    return GatewayServices(
        queue(), Presence(queue()), messages().groups, messages(), TokenService(new_secret())
    )


MADE = [
    (Pool, lambda **options: Pool(URL, **options)),
    (Batcher, lambda **options: Batcher(StreamTransport(queue().stream("s")), **options)),
    (FixedWindow, FixedWindow),
    (Adaptive, Adaptive),
    (SizeOnly, SizeOnly),
    (CreditWindow, CreditWindow),
    (Codec, Codec),
    (train_dictionary, lambda **options: train_dictionary([b"see you at eight"] * 100, **options)),
    (SqlDatabase, lambda **options: SqlDatabase(DATABASE, **options)),
    (
        OutboxRelay,
        lambda **options: OutboxRelay(SqlOutbox(SqlDatabase(DATABASE)), queue(), **options),
    ),
    (AckedPublisher, lambda **options: AckedPublisher(queue(), "bob", **options)),
    (AckingSubscriber, lambda **options: AckingSubscriber(queue(), "bob", print, **options)),
    (ImSystem, lambda **options: ImSystem(URL, database=DATABASE, **options)),
    (GatewayConfig, GatewayConfig),
    (Gateway, lambda **options: Gateway("gw-1", services(), **options)),
    (Client, lambda **options: Client("ws://127.0.0.1:1/ws", str, **options)),
    (GroupService, lambda **options: GroupService(SqlDatabase(DATABASE), queue(), **options)),
    (Presence, lambda **options: Presence(queue(), **options)),
    (OfflineStore, lambda **options: OfflineStore(SqlDatabase(DATABASE), **options)),
    (OutboxWorker, lambda **options: OutboxWorker(messages(), **options)),
    (TokenService, lambda **options: TokenService(new_secret(), **options)),
]


def numbers(made):
    """Its options that are numbers, by their defaults."""
    for name, parameter in inspect.signature(made).parameters.items():
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            yield name, parameter.default


@pytest.mark.parametrize(("made", "make"), MADE, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_number_that_makes_no_sense_is_refused_by_its_name(made, make):
    """Not a number at all, below nothing, without an end, too large for any server."""
    named = list(numbers(made))
    assert named
    for name, default in named:
        bad = [-1, math.nan, *NO_NUMBERS] + ([] if name in NEVER else [math.inf, 10**30])
        bad += [1.5] if isinstance(default, int) and not name.endswith("_s") else []
        for value in bad:
            with pytest.raises(InvalidParameter, match=f"{name}="):
                make(**{name: value})
