from .batching.batcher import Batcher
from .batching.decoder import FrameDecoder
from .batching.policies import Adaptive, BatchPolicy, FixedWindow, SizeOnly
from .compression.codec import Algorithm, Codec
from .compression.dictionary import ZstdDictionary, train_dictionary
from .connection.config import ConnectionConfig
from .connection.encoding import Message, new_message_id
from .connection.retry import Backoff, RetryPolicy
from .idempotency.effects import AtomicEffects
from .idempotency.producer import IdempotentProducer
from .idempotency.sql_database import SqlDatabase
from .idempotency.sql_inbox import SqlInbox
from .idempotency.sql_outbox import OutboxMessage, OutboxRelay, SqlOutbox
from .idempotency.store import Claim, IdempotencyStore
from .ordering.ordered_reader import MissingRange, OrderedReader
from .ordering.ordered_worker import OrderedWorker
from .ordering.partitioned_stream import PartitionedStream, PartitionEntry
from .ordering.reorder_buffer import ReorderBuffer
from .ordering.sequenced_log import AppendResult, SequencedLog, SequencedMessage
from .pool.pool import Pool
from .pool.pooled_connection import PooledConnection
from .pool.stats import PoolStats
from .pubsub.buffer import OverflowPolicy
from .pubsub.confirmed import AckedPublisher, AckingSubscriber
from .pubsub.queue import MessageQueue
from .streams.consumer import Consumer
from .streams.dead_letters import DeadLetter, DeadLetterQueue
from .streams.entries import Delivery, Entry
from .streams.group import ConsumerGroup, PendingEntry
from .streams.stream import Stream
from .streams.worker import Worker

__all__ = [
    "AckedPublisher",
    "AckingSubscriber",
    "Adaptive",
    "Algorithm",
    "AppendResult",
    "AtomicEffects",
    "Backoff",
    "BatchPolicy",
    "Batcher",
    "Claim",
    "Codec",
    "ConnectionConfig",
    "Consumer",
    "ConsumerGroup",
    "DeadLetter",
    "DeadLetterQueue",
    "Delivery",
    "Entry",
    "FixedWindow",
    "FrameDecoder",
    "IdempotencyStore",
    "IdempotentProducer",
    "Message",
    "MessageQueue",
    "MissingRange",
    "OrderedReader",
    "OrderedWorker",
    "OutboxMessage",
    "OutboxRelay",
    "OverflowPolicy",
    "PartitionEntry",
    "PartitionedStream",
    "PendingEntry",
    "Pool",
    "PoolStats",
    "PooledConnection",
    "ReorderBuffer",
    "RetryPolicy",
    "SequencedLog",
    "SequencedMessage",
    "SizeOnly",
    "SqlDatabase",
    "SqlInbox",
    "SqlOutbox",
    "Stream",
    "Worker",
    "ZstdDictionary",
    "new_message_id",
    "train_dictionary",
]
