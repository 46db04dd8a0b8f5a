"""Chapter 4's challenges: the reference solutions pass, every known-bad one is caught."""

from mpim_lab.chapters.ch04_ordering.challenges import number_in_one_step, put_in_order
from tests.challenges import assert_all_pass, assert_each_fails, assert_hints_come_one_at_a_time


class Buffer:
    """Reference solution of the first challenge."""

    def __init__(self, limit):
        self.limit, self.next, self.early = limit, 1, {}

    def add(self, sequence, item):
        if sequence < self.next or sequence in self.early:
            return []
        if sequence > self.next and len(self.early) >= self.limit:
            raise OverflowError(sequence)
        self.early[sequence] = item
        released = []
        while self.next in self.early:
            released.append(self.early.pop(self.next))
            self.next += 1
        return released

    def missing(self):
        return range(self.next, min(self.early, default=self.next))


class AsItComes(Buffer):
    def add(self, sequence, item):
        return [item]


class ForgetsWhatItReleased(Buffer):
    """A repeat of something shown already is shown again."""

    def add(self, sequence, item):
        return [item] if sequence < self.next else super().add(sequence, item)


class ShowsOnlyNewer(Buffer):
    """Skips what comes late: nothing twice, nothing out of order, and not everything."""

    def add(self, sequence, item):
        if sequence < self.next:
            return []
        self.next = sequence + 1
        return [item]


class WaitsForEver(Buffer):
    def missing(self):
        return []


class HasNoLimit(Buffer):
    def __init__(self, limit):
        super().__init__(10**9)


class LosesWhatIsTooMuch(Buffer):
    """Raises, and has thrown away what it held."""

    def add(self, sequence, item):
        try:
            return super().add(sequence, item)
        except OverflowError:
            self.early.clear()
            raise


class HasABugInMissing(Buffer):
    """With nothing early there is no lowest."""

    def missing(self):
        return range(self.next, min(self.early))


SEND = """
local given = redis.call('GET', KEYS[2])
if given then return tonumber(given) end
local number = redis.call('INCR', KEYS[1])
redis.call('SET', KEYS[2], number, 'PX', 86400000)
redis.call('PUBLISH', ARGV[1], number .. ' ' .. ARGV[3])
return number
"""


class OneStep:
    """Reference solution of the second."""

    script = SEND

    def __init__(self, keys):
        self.keys = keys

    async def send(self, id, payload):
        keys = self.keys
        return await keys.call("EVAL", self.script, 2, keys.counter, keys.sent(id), keys.channel, id, payload)


class TwoSteps(OneStep):
    async def send(self, id, payload):
        number = await self.keys.call("INCR", self.keys.counter)
        await self.keys.publish(number, payload)
        return number


class ForgetsTheId(OneStep):
    script = "\n".join(line for line in SEND.splitlines() if "KEYS[2]" not in line and "given" not in line)


class NumberThenScript(OneStep):
    """The id and the publish are one step, the number is another."""

    async def send(self, id, payload):
        keys, number = self.keys, await self.keys.call("INCR", self.keys.counter)
        script = "if redis.call('SET', KEYS[1], 1, 'NX') then redis.call('PUBLISH', ARGV[1], ARGV[2]) end"
        await keys.call("EVAL", script, 1, keys.sent(id), keys.channel, b"%d %b" % (number, payload))
        return number


class TakesANumberForARepeat(OneStep):
    """Recognises the repeat, and has taken a number by then: a gap."""

    script = SEND.replace("local number = redis.call('INCR', KEYS[1])\n", "").replace(
        "local given", "local number = redis.call('INCR', KEYS[1])\nlocal given"
    )


class NeverPublishes(OneStep):
    script = "\n".join(line for line in SEND.splitlines() if "PUBLISH" not in line)


async def test_the_reference_solutions_pass(lab_server):
    """Both challenges can be solved with what the chapter has shown."""
    await assert_all_pass(put_in_order().check(Buffer), number_in_one_step().check(OneStep))


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
