"""Numbers that are no good are refused by name where they are given, not later."""

import math

import pytest

from mpim_lab import MessageQueue
from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import RetryPolicy
from mpim_lab.mq.idempotency.producer import IdempotentProducer
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.ordered_reader import OrderedReader
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
from mpim_lab.mq.ordering.sequenced_log import SequencedLog
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.group import ConsumerGroup
from mpim_lab.mq.streams.worker import Worker


def queue(**options):
    """A queue that is never opened."""
    return MessageQueue("redis://127.0.0.1:1", **options)


def group():
    """A group of it."""
    return ConsumerGroup(queue().context("orders"), "billing")


def reader(**options):
    return OrderedReader(SequencedLog(queue(), "chat"), "c", print, **options)


def ordered(**options):
    return OrderedWorker(PartitionedStream(queue(), "p"), "g", "w", print, **options)


MAKERS = [
    ("max_commands", ConnectionConfig),
    ("max_bytes", ConnectionConfig),
    ("max_payload_bytes", queue),
    ("max_entries", lambda **option: queue().stream("s", **option)),
    ("batch_size", lambda **option: Consumer(group(), "c", **option)),
    ("max_in_flight", lambda **option: Consumer(group(), "c", **option)),
    ("claim_idle_ms", lambda **option: Consumer(group(), "c", **option)),
    ("concurrency", lambda **option: Worker(group(), "w", print, **option)),
    ("max_attempts", RetryPolicy),
    ("max_attempts", lambda **option: IdempotentProducer(print, **option)),
    ("lease_ms", lambda **option: IdempotencyStore(queue(), "s", **option)),
    ("ttl_s", lambda **option: IdempotencyStore(queue(), "s", **option)),
    ("id_ttl_s", lambda **option: SequencedLog(queue(), "s", **option)),
    ("partitions", lambda **option: PartitionedStream(queue(), "s", **option)),
    ("batch_size", ordered),
    ("lease_ms", ordered),
    ("limit", reader),
]


@pytest.mark.parametrize("number", [-1, 1.5, True, math.nan, math.inf, "3", 10**20], ids=repr)
@pytest.mark.parametrize(("name", "make"), MAKERS, ids=[name for name, _ in MAKERS])
def test_what_is_no_whole_number_or_too_small_or_too_large_is_refused_by_name(name, make, number):
    """Accepted, it would end a connection or a worker later, or be refused after half the work."""
    with pytest.raises(InvalidParameter, match=name):
        make(**{name: number})


@pytest.mark.parametrize(
    "options",
    [
        {"gap_timeout_s": math.nan},
        {"gap_timeout_s": -1},
        {"poll_interval_s": math.nan},
        {"poll_interval_s": 0},
    ],
    ids=repr,
)
def test_a_reader_that_would_never_look_or_never_rest_is_refused(options):
    """NaN is later than nothing."""
    with pytest.raises(InvalidParameter, match=next(iter(options))):
        reader(**options)
