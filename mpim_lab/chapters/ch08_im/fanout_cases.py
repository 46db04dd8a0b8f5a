"""What the learner's way to tell a group goes through, easiest first: absence, size, failures, and a second try."""

from mpim_lab.chapters.ch08_im.fanout_harness import Complaint, Hall

THREE = ("bob", "carol", "dave")
FOUR = (*THREE, "erin")
M1, M2 = "m1 tea at eight?", "m2 or at nine?"
MANY = tuple(f"u{number}" for number in range(1, 501))


async def all_here(hall: Hall) -> None:
    """Three members online, and nothing to store."""
    await hall.come(*THREE)
    await hall.say(M1, THREE)
    if hall.store_calls:
        raise Complaint("nobody is away, and the store was called: a transaction for nothing", "m1")


async def one_away(hall: Hall) -> None:
    """Nobody listens for carol."""
    await hall.come("bob", "dave")
    await hall.say(M1, THREE)


async def two_messages(hall: Hall) -> None:
    """Who was away for the first is back for the second."""
    await hall.come("bob", "dave")
    await hall.say(M1, THREE)
    await hall.come("carol")
    await hall.say(M2, THREE)


async def many(hall: Hall) -> None:
    """A hundred times as many members cost as many round trips, and one transaction."""
    await hall.come(*MANY[1:5], *MANY[100:])
    await hall.say(M1, MANY[:5])
    few = hall.round_trips
    await hall.say(M2, MANY)
    if hall.round_trips > few:
        raise Complaint(f"{hall.round_trips} round trips for {len(MANY)} members, and {few} for 5", "m2")
    if hall.store_calls > 1:
        raise Complaint(f"the store was called {hall.store_calls} times for one message: a transaction each", "m2")


async def push_fails(hall: Hall) -> None:
    """One of the commands in the pipeline fails; it fails alone."""
    await hall.come("bob", "dave", "erin")
    hall.failing = {"dave"}
    await hall.say(M1, FOUR)


async def tried_again(hall: Hall) -> None:
    """After a failure the same message is sent again, to the same members, twice; another one comes in between."""
    await hall.come("bob", "dave", "erin")
    hall.failing = {"bob", "dave"}
    await hall.say(M1, FOUR)
    hall.failing = {"bob"}
    await hall.say(M1, FOUR)
    hall.failing = set()
    await hall.say(M2, FOUR)
    await hall.say(M1, FOUR)


async def leaves_meanwhile(hall: Hall) -> None:
    """She whose PUBLISH failed is away when it is tried again."""
    await hall.come(*FOUR)
    hall.failing = {"erin"}
    await hall.say(M1, FOUR)
    hall.failing = set()
    await hall.leave("erin")
    await hall.say(M1, FOUR)


async def store_fails(hall: Hall) -> None:
    """Those who are online have it all the same."""
    await hall.come("bob", "dave")
    hall.store_fails = True
    await hall.say(M1, FOUR)


async def store_comes_back(hall: Hall) -> None:
    """The store's failures are made good, and nobody is told twice."""
    await hall.come("bob", "dave")
    hall.store_fails, hall.failing = True, {"dave"}
    await hall.say(M1, FOUR)
    hall.store_fails, hall.failing = False, set()
    await hall.say(M1, FOUR)


SCRIPTS = (
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
