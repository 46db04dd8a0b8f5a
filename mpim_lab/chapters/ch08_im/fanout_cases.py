"""The cases of the learner's fan-out, easiest first: absence, size, failures, and a second try."""

from mpim_lab.chapters.ch08_im.fanout_harness import FanoutHarness, Violation

THREE = ("bob", "carol", "dave")
FOUR = (*THREE, "erin")
M1, M2 = "m1 tea at eight?", "m2 or at nine?"
MANY = tuple(f"u{number}" for number in range(1, 501))


async def all_here(harness: FanoutHarness) -> None:
    """Three members online, and nothing to store."""
    await harness.connect(*THREE)
    await harness.send(M1, THREE)
    if harness.store_calls:
        raise Violation("nobody is away, and the store was called: a transaction for nothing", "m1")


async def one_away(harness: FanoutHarness) -> None:
    """Nobody listens for carol."""
    await harness.connect("bob", "dave")
    await harness.send(M1, THREE)


async def two_messages(harness: FanoutHarness) -> None:
    """Who was away for the first is back for the second."""
    await harness.connect("bob", "dave")
    await harness.send(M1, THREE)
    await harness.connect("carol")
    await harness.send(M2, THREE)


async def many(harness: FanoutHarness) -> None:
    """A hundred times as many members cost as many round trips, and one transaction."""
    await harness.connect(*MANY[1:5], *MANY[100:])
    await harness.send(M1, MANY[:5])
    few = harness.round_trips
    await harness.send(M2, MANY)
    if harness.round_trips > few:
        raise Violation(
            f"{harness.round_trips} round trips for {len(MANY)} members, and {few} for 5", "m2"
        )
    if harness.store_calls > 1:
        raise Violation(
            f"the store was called {harness.store_calls} times for one message: a transaction each",
            "m2",
        )


async def push_fails(harness: FanoutHarness) -> None:
    """One of the commands in the pipeline fails; it fails alone."""
    await harness.connect("bob", "dave", "erin")
    harness.failing = {"dave"}
    await harness.send(M1, FOUR)


async def tried_again(harness: FanoutHarness) -> None:
    """After a failure the same message is sent again, to the same members, twice.

    Another one comes in between.
    """
    await harness.connect("bob", "dave", "erin")
    harness.failing = {"bob", "dave"}
    await harness.send(M1, FOUR)
    harness.failing = {"bob"}
    await harness.send(M1, FOUR)
    harness.failing = set()
    await harness.send(M2, FOUR)
    await harness.send(M1, FOUR)


async def leaves_meanwhile(harness: FanoutHarness) -> None:
    """She whose PUBLISH failed is away when it is tried again."""
    await harness.connect(*FOUR)
    harness.failing = {"erin"}
    await harness.send(M1, FOUR)
    harness.failing = set()
    await harness.disconnect("erin")
    await harness.send(M1, FOUR)


async def store_fails(harness: FanoutHarness) -> None:
    """Those who are online have it all the same."""
    await harness.connect("bob", "dave")
    harness.store_fails = True
    await harness.send(M1, FOUR)


async def store_comes_back(harness: FanoutHarness) -> None:
    """The store's failures are made good, and nobody receives it twice."""
    await harness.connect("bob", "dave")
    harness.store_fails, harness.failing = True, {"dave"}
    await harness.send(M1, FOUR)
    harness.store_fails, harness.failing = False, set()
    await harness.send(M1, FOUR)


CASES = (
    ("three members, all of them online", all_here),
    ("three members, carol is away", one_away),
    ("two messages; carol is away for the first", two_messages),
    ("a group of 5, a group of 500, some of them away", many),
    ("four members, carol is away, dave's PUBLISH fails", push_fails),
    ("bob's and dave's PUBLISH fail; the message is sent again", tried_again),
    ("erin's PUBLISH fails; she leaves, and the message is sent again", leaves_meanwhile),
    ("four members, carol and erin are away, the store fails", store_fails),
    ("the store and dave's PUBLISH fail; the message is sent again", store_comes_back),
)
