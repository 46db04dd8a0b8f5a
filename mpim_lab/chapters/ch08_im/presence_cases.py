"""What the learner's routes go through, easiest first: one gateway, a move, a death, and two gateways at the same time."""

from mpim_lab.chapters.ch08_im.presence_harness import MOST_PARTS, Gates


async def found(gates: Gates) -> None:
    """Who is bound is found, by every gateway; nobody else is."""
    await gates.must_be_gone("she never connected")
    await gates.bind("gw-1", "c1")
    await gates.must_be_at("gw-1", "it was bound just now")
    gates.next_user(keep_log=True)
    await gates.bind("gw-2", "c2")
    await gates.must_be_at("gw-2", "it was bound just now")
    gates.about("bob")
    await gates.must_be_at("gw-1", "another user's route is no concern of his")


async def gone(gates: Gates) -> None:
    """An unbind deletes the route; a new bind makes another."""
    await gates.bind("gw-1", "c1")
    await gates.unbind("gw-1", "c1")
    await gates.must_be_gone("its connection was unbound")
    await gates.bind("gw-1", "c2")
    await gates.must_be_at("gw-1", "it was bound again")


async def moved(gates: Gates) -> None:
    """The old gateway's unbind comes after the new gateway's bind."""
    await gates.bind("gw-1", "c1")
    await gates.bind("gw-2", "c2")
    await gates.must_be_at("gw-2", "the last bind is where the user is")
    await gates.unbind("gw-1", "c1")
    await gates.must_be_at("gw-2", "gw-1's late unbind was of c1, and deleted c2's route")
    await gates.unbind("gw-2", "c2")
    await gates.must_be_gone("its connection was unbound")


async def same_gateway(gates: Gates) -> None:
    """The user comes back to the same gateway before it has noticed that the old connection ended."""
    await gates.bind("gw-1", "c1")
    await gates.bind("gw-1", "c2")
    await gates.unbind("gw-1", "c1")
    await gates.must_be_at("gw-1", "the late unbind was of c1, and deleted c2's route")
    await gates.unbind("gw-1", "c2")
    await gates.must_be_gone("its connection was unbound")


async def late_renew(gates: Gates) -> None:
    """The old gateway has not noticed yet, and renews."""
    await gates.bind("gw-1", "c1")
    await gates.bind("gw-2", "c2")
    await gates.renew("gw-1", "c1")
    await gates.must_be_at("gw-2", "gw-1's late renew of c1 took the route back")
    await gates.unbind("gw-2", "c2")
    await gates.must_be_gone("its connection was unbound")


async def dies(gates: Gates) -> None:
    """Nobody unbinds: the route ends by itself, and not before its time."""
    await gates.bind("gw-1", "c1")
    await gates.wait(0.75)
    await gates.must_be_at("gw-1", "a quarter of its lifetime is left")
    await gates.wait(1)
    await gates.must_be_gone("its gateway was silent for more than a lifetime")


async def renewed(gates: Gates) -> None:
    """A heartbeat keeps it, for as long as it comes."""
    await gates.bind("gw-1", "c1")
    for _ in range(6):
        await gates.wait(0.25)
        await gates.renew("gw-1", "c1")
    await gates.must_be_at("gw-1", "its gateway renewed it in time")
    await gates.wait(1)
    await gates.must_be_gone("its gateway was silent for more than a lifetime")


async def others_heartbeat(gates: Gates) -> None:
    """The new gateway dies; the old one, which has not noticed that the user moved, renews on."""
    await gates.bind("gw-1", "c1")
    await gates.bind("gw-2", "c2")
    for _ in range(6):
        await gates.wait(0.25)
        await gates.renew("gw-1", "c1")
    await gates.must_be_gone("gw-2 was silent for more than a lifetime; what gw-1 renewed was c1, not c2")


async def unbind_meets_bind(gates: Gates) -> None:
    """The user moves while the old gateway is in the middle of its unbind, or the new one in the middle of its bind."""
    ways = ((("unbind", "gw-1", "c1"), ("bind", "gw-2", "c2")), (("bind", "gw-2", "c2"), ("unbind", "gw-1", "c1")))
    for first, second in ways:
        for after in range(1, MOST_PARTS + 1):
            await gates.bind("gw-1", "c1")
            was_parted = await gates.part(first, after, second)
            if was_parted:
                why = f"gw-1's unbind of c1 and gw-2's bind met, and {first[1]} was not done in one step"
                await gates.must_be_at("gw-2", why)
            gates.next_user()
            if not was_parted:
                break


async def renew_meets_bind(gates: Gates) -> None:
    """The user moves while the old gateway is in the middle of its renew."""
    for after in range(1, MOST_PARTS + 1):
        await gates.bind("gw-1", "c1")
        was_parted = await gates.part(("renew", "gw-1", "c1"), after, ("bind", "gw-2", "c2"))
        if was_parted:
            why = "gw-1's renew of c1 and gw-2's bind met, and gw-1 was not done in one step"
            await gates.must_be_at("gw-2", why)
        gates.next_user()
        if not was_parted:
            return


async def dies_in_the_middle(gates: Gates) -> None:
    """A gateway dies between two commands of its bind, or of its renew."""
    for method in ("bind", "renew"):
        for after in range(1, MOST_PARTS + 1):
            if method == "renew":
                await gates.bind("gw-1", "c1")
            if not await gates.die(method, "gw-1", "c1", after):
                gates.next_user()
                break
            await gates.wait(1)
            await gates.must_be_gone(f"gw-1 died in the middle of its {method}, more than a lifetime ago")
            gates.next_user()


SCRIPTS = (
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
