"""The cases of the learner's routes, easiest first: one gateway, a move, a death, and two gateways at the same time."""

from mpim_lab.chapters.ch08_im.presence_harness import MAX_INTERLEAVINGS, PresenceHarness


async def found(harness: PresenceHarness) -> None:
    """Who is bound is found, by every gateway; nobody else is."""
    await harness.expect_offline("she never connected")
    await harness.bind("gw-1", "c1")
    await harness.expect_at("gw-1", "it was bound just now")
    harness.switch_user(keep_log=True)
    await harness.bind("gw-2", "c2")
    await harness.expect_at("gw-2", "it was bound just now")
    harness.use_user("bob")
    await harness.expect_at("gw-1", "another user's route is no concern of his")


async def gone(harness: PresenceHarness) -> None:
    """An unbind deletes the route; a new bind makes another."""
    await harness.bind("gw-1", "c1")
    await harness.unbind("gw-1", "c1")
    await harness.expect_offline("its connection was unbound")
    await harness.bind("gw-1", "c2")
    await harness.expect_at("gw-1", "it was bound again")


async def moved(harness: PresenceHarness) -> None:
    """The old gateway's unbind comes after the new gateway's bind."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-2", "c2")
    await harness.expect_at("gw-2", "the last bind is where the user is")
    await harness.unbind("gw-1", "c1")
    await harness.expect_at("gw-2", "gw-1's late unbind was of c1, and deleted c2's route")
    await harness.unbind("gw-2", "c2")
    await harness.expect_offline("its connection was unbound")


async def same_gateway(harness: PresenceHarness) -> None:
    """The user comes back to the same gateway before it has noticed that the old connection ended."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-1", "c2")
    await harness.unbind("gw-1", "c1")
    await harness.expect_at("gw-1", "the late unbind was of c1, and deleted c2's route")
    await harness.unbind("gw-1", "c2")
    await harness.expect_offline("its connection was unbound")


async def late_renew(harness: PresenceHarness) -> None:
    """The old gateway has not noticed yet, and renews."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-2", "c2")
    await harness.renew("gw-1", "c1")
    await harness.expect_at("gw-2", "gw-1's late renew of c1 took the route back")
    await harness.unbind("gw-2", "c2")
    await harness.expect_offline("its connection was unbound")


async def dies(harness: PresenceHarness) -> None:
    """Nobody unbinds: the route ends by itself, and not before its time."""
    await harness.bind("gw-1", "c1")
    await harness.wait(0.75)
    await harness.expect_at("gw-1", "a quarter of its lifetime is left")
    await harness.wait(1)
    await harness.expect_offline("its gateway was silent for more than a lifetime")


async def renewed(harness: PresenceHarness) -> None:
    """A heartbeat keeps it, for as long as it comes."""
    await harness.bind("gw-1", "c1")
    for _ in range(6):
        await harness.wait(0.25)
        await harness.renew("gw-1", "c1")
    await harness.expect_at("gw-1", "its gateway renewed it in time")
    await harness.wait(1)
    await harness.expect_offline("its gateway was silent for more than a lifetime")


async def others_heartbeat(harness: PresenceHarness) -> None:
    """The new gateway dies; the old one, which has not noticed that the user moved, renews on."""
    await harness.bind("gw-1", "c1")
    await harness.bind("gw-2", "c2")
    for _ in range(6):
        await harness.wait(0.25)
        await harness.renew("gw-1", "c1")
    await harness.expect_offline(
        "gw-2 was silent for more than a lifetime; what gw-1 renewed was c1, not c2"
    )


async def unbind_meets_bind(harness: PresenceHarness) -> None:
    """The user moves while the old gateway is in the middle of its unbind, or the new one in the middle of its bind."""
    ways = (
        (("unbind", "gw-1", "c1"), ("bind", "gw-2", "c2")),
        (("bind", "gw-2", "c2"), ("unbind", "gw-1", "c1")),
    )
    for first, second in ways:
        for after in range(1, MAX_INTERLEAVINGS + 1):
            await harness.bind("gw-1", "c1")
            is_interleaved = await harness.interleave(first, after, second)
            if is_interleaved:
                why = f"gw-1's unbind of c1 and gw-2's bind met, and {first[1]} was not done in one step"
                await harness.expect_at("gw-2", why)
            harness.switch_user()
            if not is_interleaved:
                break


async def renew_meets_bind(harness: PresenceHarness) -> None:
    """The user moves while the old gateway is in the middle of its renew."""
    for after in range(1, MAX_INTERLEAVINGS + 1):
        await harness.bind("gw-1", "c1")
        is_interleaved = await harness.interleave(
            ("renew", "gw-1", "c1"), after, ("bind", "gw-2", "c2")
        )
        if is_interleaved:
            why = "gw-1's renew of c1 and gw-2's bind met, and gw-1 was not done in one step"
            await harness.expect_at("gw-2", why)
        harness.switch_user()
        if not is_interleaved:
            return


async def dies_in_the_middle(harness: PresenceHarness) -> None:
    """A gateway dies between two commands of its bind, or of its renew."""
    for method in ("bind", "renew"):
        for after in range(1, MAX_INTERLEAVINGS + 1):
            if method == "renew":
                await harness.bind("gw-1", "c1")
            if not await harness.kill_during(method, "gw-1", "c1", after):
                harness.switch_user()
                break
            await harness.wait(1)
            await harness.expect_offline(
                f"gw-1 died in the middle of its {method}, more than a lifetime ago"
            )
            harness.switch_user()


CASES = (
    ("bob connects to gw-1, carol to gw-2", found),
    ("bob leaves, and comes back", gone),
    ("bob moves to gw-2, and gw-1's unbind comes late", moved),
    ("bob comes back to gw-1, and the unbind of his old connection comes late", same_gateway),
    ("bob moves to gw-2, and gw-1's renew comes late", late_renew),
    ("bob's gateway dies", dies),
    ("bob's route is renewed for more than a lifetime, then his gateway dies", renewed),
    ("bob moves to gw-2, which dies; gw-1 renews on", others_heartbeat),
    ("an unbind and a bind at the same time", unbind_meets_bind),
    ("a renew and a bind at the same time", renew_meets_bind),
    ("a gateway dies in the middle of what it does", dies_in_the_middle),
)
