"""Catalog: the challenges of all chapters, in the order in which they are met."""

import importlib

import pandas as pd

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.progress import load_progress

CHALLENGES = (
    "ch01_pubsub/tell_the_truth",
    "ch01_pubsub/deliver_everything",
    "ch02_streams/lose_nothing",
    "ch02_streams/survive_the_poison",
    "ch03_idempotency/do_it_once",
    "ch03_idempotency/survive_the_zombie",
    "ch04_ordering/put_in_order",
    "ch04_ordering/number_in_one_step",
    "ch05_batching/close_the_batch",
    "ch05_batching/lose_nothing",
    "ch06_compression/say_what_it_is",
    "ch06_compression/defuse_the_bomb",
    "ch07_pool/first_come_first_served",
    "ch07_pool/give_nothing_broken_back",
    "ch08_im/routes_without_ghosts",
    "ch08_im/tell_the_whole_group",
    "ch08_im/read_in_order",
)


def challenge_named(id: str) -> Challenge:
    """Make the challenge with this id.

    Args:
        id: chapter and name, "ch03/do_it_once".

    Raises:
        InvalidParameter: for an id that no challenge has.
    """
    chapter, _, name = id.partition("/")
    for each in CHALLENGES:
        folder, _, factory = each.partition("/")
        if factory == name and folder.startswith(f"{chapter}_"):
            module = importlib.import_module(f"mpim_lab.chapters.{folder}.challenges")
            made: Challenge = getattr(module, factory)()
            return made
    raise InvalidParameter(f"no challenge is called {id!r}: one is ch03/do_it_once")


def ids() -> list[str]:
    """Return the ids of all challenges."""
    return [each.partition("_")[0] + "/" + each.partition("/")[2] for each in CHALLENGES]


def progress_table() -> pd.DataFrame:
    """Return the learner's progress: a row for each challenge, in the order of the chapters.

    Returns:
        By the challenge's id: its title, difficulty in stars, the minutes that it takes, the tries
        so far, and the day on which it was passed. The first one that was not is marked "next".
    """
    progress = load_progress()
    rows = []
    for each in ids():
        made, kept = challenge_named(each), progress.get(each, {})
        rows.append(
            {
                "challenge": each,
                "title": made.title,
                "difficulty": "★" * made.difficulty,
                "minutes": made.minutes,
                "tries": kept.get("tries", 0),
                "passed": kept.get("passed") or "",
            }
        )
    table = pd.DataFrame(rows).set_index("challenge")
    if (left := table.index[table["passed"] == ""]).size:
        table.loc[left[0], "passed"] = "next"
    return table
