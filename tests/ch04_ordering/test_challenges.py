"""Chapter 4's challenges: the reference solutions pass, every known-bad one is caught."""

from mpim_lab.chapters.ch04_ordering.challenges import number_in_one_step, put_in_order
from mpim_lab.chapters.ch04_ordering.solutions import SEND, AtomicGateway, BoundedReorderBuffer
from tests.challenges import assert_all_pass, assert_each_fails, assert_hints_come_one_at_a_time


class AsItComes(BoundedReorderBuffer):
    def add(self, sequence, item):
        return [item]


class ForgetsWhatItReleased(BoundedReorderBuffer):
    """A repeat of something shown already is shown again."""

    def add(self, sequence, item):
        return [item] if sequence < self.next else super().add(sequence, item)


class ShowsOnlyNewer(BoundedReorderBuffer):
    """Skips what comes late: nothing twice, nothing out of order, and not everything."""

    def add(self, sequence, item):
        if sequence < self.next:
            return []
        self.next = sequence + 1
        return [item]


class WaitsForEver(BoundedReorderBuffer):
    def missing(self):
        return []


class HasNoLimit(BoundedReorderBuffer):
    def __init__(self, limit):
        super().__init__(10**9)


class LosesWhatIsTooMuch(BoundedReorderBuffer):
    """Raises, and has thrown away what it held."""

    def add(self, sequence, item):
        try:
            return super().add(sequence, item)
        except OverflowError:
            self.early.clear()
            raise


class HasABugInMissing(BoundedReorderBuffer):
    """With nothing early there is no lowest."""

    def missing(self):
        return range(self.next, min(self.early))


class TwoSteps(AtomicGateway):
    async def send(self, id, payload):
        number = await self.keys.call("INCR", self.keys.counter)
        await self.keys.publish(number, payload)
        return number


class ForgetsTheId(AtomicGateway):
    script = "\n".join(
        line for line in SEND.splitlines() if "KEYS[2]" not in line and "given" not in line
    )


class NumberThenScript(AtomicGateway):
    """The id and the publish are one step, the number is another."""

    async def send(self, id, payload):
        keys, number = self.keys, await self.keys.call("INCR", self.keys.counter)
        publish = "redis.call('PUBLISH', ARGV[1], ARGV[2])"
        script = f"if redis.call('SET', KEYS[1], 1, 'NX') then {publish} end"
        await keys.call(
            "EVAL", script, 1, keys.sent(id), keys.channel, b"%d %b" % (number, payload)
        )
        return number


class TakesANumberForARepeat(AtomicGateway):
    """Recognises the repeat, and has taken a number by then: a gap."""

    script = SEND.replace("local number = redis.call('INCR', KEYS[1])\n", "").replace(
        "local given", "local number = redis.call('INCR', KEYS[1])\nlocal given"
    )


class NeverPublishes(AtomicGateway):
    script = "\n".join(line for line in SEND.splitlines() if "PUBLISH" not in line)


async def test_the_reference_solutions_pass(lab_server):
    """Both challenges can be solved with what the chapter has shown."""
    await assert_all_pass(
        put_in_order().check(BoundedReorderBuffer), number_in_one_step().check(AtomicGateway)
    )


async def test_a_buffer_that_shows_too_early_too_often_or_never_fails_every_time(lab_server):
    """The outcome says what came when it should not have, or did not come."""
    complaints = {
        AsItComes: "was duplicated",
        ForgetsWhatItReleased: "was duplicated",
        ShowsOnlyNewer: "is stalled",
        WaitsForEver: "OverflowError",
        HasNoLimit: "fills the memory",
        LosesWhatIsTooMuch: "then m1 came",
        HasABugInMissing: "ValueError: min() arg is an empty sequence",
    }
    await assert_each_fails(put_in_order, complaints)


async def test_a_gateway_whose_number_and_publish_can_be_parted_fails_every_time(lab_server):
    """So does one that does not know a repeat, or knows it too late."""
    complaints = {
        TwoSteps: "is stalled",
        ForgetsTheId: "was duplicated",
        NumberThenScript: "is stalled",
        TakesANumberForARepeat: "is stalled",
        NeverPublishes: "was lost",
    }
    await assert_each_fails(number_in_one_step, complaints)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(put_in_order(), number_in_one_step())
