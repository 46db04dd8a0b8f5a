"""Chapter 6's experiment: who can read whom, and what a bomb makes of a receiver.

The tables that the notebook shows.
"""

import pytest

from mpim_lab.chapters.ch06_compression.experiment import (
    DESIGNS,
    CompressionExperiment,
    corruption_table,
    decode_table,
)
from mpim_lab.chapters.ch06_compression.measurements import batched_table, message_table, size_sweep
from mpim_lab.chapters.ch06_compression.scenario import SENDERS, chat_dictionary
from mpim_lab.events import EventKind
from mpim_lab.lab.workload.corpus import Corpus
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.widgets import FlowView
from mpim_lab.widgets.panel import verdict_card
from tests.pictures import assert_is_static
from tests.support import REPEATS

CORRECT = tuple(design for design in DESIGNS if design != "naive")


@pytest.mark.parametrize("design", DESIGNS)
async def test_among_themselves_all_designs_work(lab_server, design):
    """The naive version looks right until somebody else comes."""
    verdict = (await CompressionExperiment(design=design, fault="none").run()).verdict
    assert verdict.semantics == "exactly once in this run, in order"


@pytest.mark.parametrize("fault", ["old sender", "new sender"])
@pytest.mark.parametrize("seed", [1, 7][:REPEATS])
async def test_the_naive_version_reads_nobody_but_itself(lab_server, fault, seed):
    """Exactly the messages of the other sender are lost; with a mark everything is read."""
    result = await CompressionExperiment(design="naive", fault=fault, seed=seed).run()
    others = {
        event.message_id
        for event in result.trace.by_kind(EventKind.ACCEPTED)
        if event.actor == SENDERS[fault]
    }
    assert set(result.verdict.lost) == others
    assert len(others) == 3
    for design in CORRECT:
        assert (
            await CompressionExperiment(design=design, fault=fault, seed=seed).run()
        ).verdict.lost == ()


async def test_a_bomb_fills_the_naive_versions_memory_and_is_refused_by_the_fix(lab_server):
    """64 MiB out of 64 KB; the others never make more than their limit, and say so by name."""
    naive = await CompressionExperiment(design="naive", fault="bomb").run()
    assert naive.metrics["most_bytes"] > 64 * 1024 * 1024
    for design in CORRECT:
        result = await CompressionExperiment(design=design, fault="bomb").run()
        assert result.metrics["most_bytes"] < 10_000
        (refused,) = result.trace.by_kind(EventKind.FAILED)
        assert refused.detail.startswith("OversizedPayload")
        assert result.verdict.lost == ()


async def test_what_is_cut_off_has_a_named_error(lab_server):
    """It cannot be read by anybody; its neighbours can."""
    for design in CORRECT:
        result = await CompressionExperiment(design=design, fault="cut off").run()
        errors = [event.error for event in result.trace.by_kind(EventKind.FAILED)]
        assert errors == ["CorruptPayload"] * 3
        assert len(result.verdict.lost) == 3


async def test_a_changed_bit_is_refused_where_there_is_a_checksum_and_misread_elsewhere(lab_server):
    """zlib has one.

    LZ4 and Zstandard are made without; the verdict says that what came is not what was sent.
    """
    table = await corruption_table()
    assert table.equals(await corruption_table())
    assert table["refused"].to_dict() == {"naive": 3, "zlib": 3, "lz4": 0, "zstd": 0}
    assert table["read as another text"].to_dict() == {"naive": 0, "zlib": 0, "lz4": 3, "zstd": 3}
    assert table.loc["zlib", "bob's error"] == "CorruptPayload"
    result = await CompressionExperiment(design="zstd", fault="changed").run()
    assert "✘ not everything arrived as it should" in verdict_card(result)
    changed = result.verdict
    assert (len(changed.altered), changed.lost) == (3, ())
    assert changed.semantics == "exactly once in this run, in order, not as it was sent"
    assert "read as another text 3" in str(changed)
    assert (await CompressionExperiment(design="zlib", fault="changed").run()).verdict.altered == ()


async def test_the_table_and_the_picture_are_the_same_every_time(lab_server):
    """They are stored in the notebook."""
    first, *others = [await decode_table() for _ in range(REPEATS)]
    assert all(first.equals(again) for again in others)
    assert len(first) == len(SENDERS) * len(DESIGNS)
    results = [await CompressionExperiment(fault="old sender").run() for _ in range(2)]
    one, two = (assert_is_static(FlowView(result.trace)) for result in results)
    assert one == two


def test_a_dictionary_makes_the_median_message_half_again_as_small_where_zlib_makes_it_larger():
    """Of messages that were not its samples."""
    table = message_table()
    assert table.loc["zstd-dictionary", "times smaller"] >= 1.5
    assert table.loc["zlib", "times smaller"] < 1 > table.loc["lz4", "times smaller"]
    assert table.loc["zlib", "median bytes"] > table.loc["none", "median bytes"]
    assert (
        table.loc["zlib", "messages that grew %"]
        > 50
        > 5
        > table.loc["zstd-dictionary", "messages that grew %"]
    )


def test_in_batches_every_algorithm_pays():
    """The more messages in a batch, the more they have in common.

    A dictionary is ahead at every size.
    """
    table = batched_table((1, 16, 256))
    assert (table.loc[256] < 60).all()
    assert (table.diff().iloc[1:] < 0).all(axis=None)
    assert (table["zstd-dictionary"] <= table.min(axis=1)).all()


def test_with_its_usual_thresholds_no_codec_makes_any_chat_message_longer():
    """And the dictionary is used for short ones."""
    dictionary = chat_dictionary()
    for algorithm in ("none", "zlib", "lz4", "zstd", "zstd-dictionary"):
        codec = Codec(algorithm, dictionaries=[dictionary])
        for message in Corpus(1).messages(500):
            packed = codec.encode(message)
            assert len(packed) <= len(message)
            assert codec.decode(packed) == message


async def test_the_sweep_gives_a_row_for_each_size_and_algorithm():
    """And ends when its reader has enough."""
    rows = [row async for row in size_sweep((32, 4_096))]
    assert [(row["bytes"], row["algorithm"]) for row in rows] == [
        (size, name) for size in (32, 4_096) for name in ("zlib", "lz4", "zstd", "zstd-dictionary")
    ]
    left = {(row["bytes"], row["algorithm"]): row["left %"] for row in rows}
    assert left[32, "zlib"] > 100 > left[4_096, "zlib"]
    assert all(row["pack µs"] > 0 < row["unpack µs"] for row in rows)
