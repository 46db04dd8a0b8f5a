"""Catalog: the challenges of all chapters, in the order in which they are met."""

import importlib

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.challenge import Challenge

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
