"""Message ids: nobody makes the same one, and they sort by when they were made."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from mpim_lab.mq.connection.encoding import new_message_id


def test_an_id_is_a_uuid_of_version_7_as_32_hexadecimal_digits():
    """So any library of any language reads it."""
    identity = new_message_id()
    assert len(identity) == 32 and identity == identity.lower()
    assert uuid.UUID(identity).version == 7 and uuid.UUID(identity).variant == uuid.RFC_4122


def test_an_id_begins_with_the_time_in_milliseconds():
    """The first 48 bits (RFC 9562, section 5.7)."""
    before = time.time_ns() // 1_000_000
    made = int(new_message_id()[:12], 16)
    assert before <= made <= time.time_ns() // 1_000_000


def test_ids_made_one_after_the_other_ascend():
    """Also within one millisecond: text sorts as they were made."""
    ids = [new_message_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))


def test_no_two_threads_make_the_same_id():
    """Without asking each other."""
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: {new_message_id() for _ in range(2_000)}, range(8)))
    assert len(set().union(*made)) == 16_000
