"""What inbox and outbox keep comes back byte for byte, from every database.

Names are compared letter by letter.
"""

import enum

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.idempotency.sql_inbox import SqlInbox
from mpim_lab.mq.idempotency.sql_outbox import SqlOutbox

pytest_plugins = ["tests.databases"]
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=255)
PAYLOADS = st.binary(max_size=2_000) | st.sampled_from(
    [b"", b"\0", b"\\'\"%s :b ?", b"x" * 1024 * 1024]
)


class Scope(enum.StrEnum):
    """A text of a class of its own."""

    ORDERS = "orders"


def giving(result):
    """A work that gives this."""

    async def work(connection):
        return result

    return work


@PROPERTY
@given(id=NAMES, result=PAYLOADS)
async def test_a_result_comes_back_as_it_was(database_url, id, result):
    """Under any name; also when it is asked for by a repeat."""
    async with SqlDatabase(database_url) as store:
        inbox = SqlInbox(store, "payments")
        await inbox.purge(0)
        before = await inbox.result(id)
        first = await inbox.run(id, giving(result))
        assert first == (result if before is None else before)
        assert await inbox.run(id, giving(b"other")) == await inbox.result(id) == first


@PROPERTY
@given(name=NAMES, id=NAMES, payload=PAYLOADS)
async def test_a_row_of_the_outbox_comes_back_as_it_was(database_url, name, id, payload):
    """Stream, message id and payload."""
    async with SqlDatabase(database_url) as store:
        outbox = SqlOutbox(store)
        async with store.transaction() as connection:
            await outbox.add(connection, name, id, payload)
        (row,) = await outbox.pending()
        assert row[1:] == (name, id, payload)
        await outbox.delete(row.id)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "A"), ("ss", "ß"), ("e", "é"), ("é", "e\u0301"), ("🫖", "☕"), ("1", "１")],
)
async def test_ids_that_look_alike_are_different_messages(database_url, one, other):
    """Otherwise the second one would count as a repeat, and be lost."""
    async with SqlDatabase(database_url) as store:
        inbox = SqlInbox(store, "payments")
        assert [await inbox.run(each, giving(each.encode())) for each in (one, other)] == [
            one.encode(),
            other.encode(),
        ]


async def test_a_name_may_be_a_text_of_a_class_of_its_own(database_url):
    """Drivers get a plain text."""
    async with SqlDatabase(database_url) as store:
        inbox, outbox = SqlInbox(store, Scope.ORDERS), SqlOutbox(store)
        assert (
            await inbox.run(Scope.ORDERS, giving(b"1"))
            == await inbox.run("orders", giving(b"2"))
            == b"1"
        )
        assert await SqlInbox(store, "orders").result(Scope.ORDERS) == b"1"
        async with store.transaction() as connection:
            await outbox.add(connection, Scope.ORDERS, Scope.ORDERS, "tea")
        assert [row[1:] for row in await outbox.pending()] == [("orders", "orders", b"tea")]
