"""RouteHistory: what gateways did to a user's route, and whether that explains what `where` said.

Each operation takes effect once, at some moment between its beginning and its end: it is
linearizable (https://cs.brown.edu/~mph/HerlihyW90/p463-herlihy.pdf). One that did not return took
effect before it was given up, or never. How it was done is not asked.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

from mpim_lab.events import now

MARGIN_S = 0.06  # a route may end so much sooner or later than its lifetime says


@dataclass(eq=False)
class Operation:
    """One call of a method. `has_returned`: it certainly took effect."""

    method: str
    gateway: str
    uid: str
    connection: str = ""
    began: float = field(default_factory=now)
    ended: float = math.inf
    has_returned: bool = False
    result: object = None

    def __str__(self) -> str:
        if self.method == "where":
            said = f"gave {self.result!r}" if self.has_returned else "failed"
            return f"where({self.uid!r}) {said}"
        failed = "" if self.has_returned else " failed"
        return f"{self.method}({self.uid!r}, {self.gateway!r}, {self.connection!r}){failed}"


class _Route(NamedTuple):
    """A route that is there until `sure_until`, and not any more after `gone_at`."""

    gateway: str
    connection: str
    sure_until: float
    gone_at: float


@dataclass(frozen=True)
class Rules:
    """What routes must hold to. Which rule was broken is found by leaving them out."""

    lifetime_s: float
    are_owned: bool = True  # unbind and renew are for this connection's route
    are_timed: bool = True  # a route is there for its lifetime, not for some time

    def after(self, route: _Route | None, done: Operation) -> Iterator[_Route | None]:
        """Yield what the route may be after an operation; nothing if it cannot be done now."""
        if done.method == "bind":
            yield self._route(done)
        elif done.method == "where":
            yield from self._after_where(route, done)
        elif route is None:
            yield None
            if done.method == "renew" and not self.are_owned:
                yield self._route(done)
        elif (route.gateway, route.connection) == (done.gateway, done.connection):
            yield from self._after_own(route, done)
        else:
            yield route
            if not self.are_owned:
                yield None
                if done.method == "renew":
                    yield self._route(done)
                    renewed = self._route(done)
                    yield route._replace(sure_until=renewed.sure_until, gone_at=renewed.gone_at)

    def _after_own(self, route: _Route, done: Operation) -> Iterator[_Route | None]:
        if done.method == "unbind" or done.ended > route.sure_until:
            yield None
        if done.method == "renew" and done.began < route.gone_at:
            yield self._route(done)

    def _after_where(self, route: _Route | None, done: Operation) -> Iterator[_Route | None]:
        if done.result is None:
            if route is None or done.ended > route.sure_until:
                yield None
        elif route is not None and route.gateway == done.result and done.began < route.gone_at:
            yield route

    def _route(self, done: Operation) -> _Route:
        if not self.are_timed:
            some_time = done.began + self.lifetime_s / 3
            return _Route(done.gateway, done.connection, some_time, math.inf)
        sure_until = done.began + self.lifetime_s - MARGIN_S
        gone_at = done.ended + self.lifetime_s + MARGIN_S
        return _Route(done.gateway, done.connection, sure_until, gone_at)


def is_explained(operations: Sequence[Operation], rules: Rules) -> bool:
    """Say whether there is an order in which all operations could have taken effect."""

    @cache
    def goes_on(left: frozenset[Operation], route: _Route | None) -> bool:
        certain = [each for each in left if each.has_returned]
        if not certain:
            return True
        first_end = min(each.ended for each in certain)
        return any(
            goes_on(frozenset(each for each in left - {done} if _may_follow(each, done)), after)
            for done in sorted(left, key=lambda each: each.ended)
            if done.began <= first_end
            for after in rules.after(route, done)
        )

    return goes_on(frozenset(operations), None)


def _may_follow(other: Operation, done: Operation) -> bool:
    """One that was given up before another began can only have taken effect before that."""
    return other.has_returned or other.ended >= done.began


class Contradiction(NamedTuple):
    """The first answer of `where` that cannot be, what could be, and the rule that it breaks."""

    where: Operation
    possible: tuple[str | None, ...]
    rule: str


def first_contradiction(operations: Sequence[Operation], lifetime_s: float) -> Contradiction | None:
    """Return what no order of one user's operations explains.

    Its rule is "owned" (a late unbind or renew), "timed" (a lifetime), "gone" or "found".
    """
    rules = Rules(lifetime_s)
    if is_explained(operations, rules):
        return None
    answers = [each for each in operations if each.method == "where" and each.has_returned]
    for where in sorted(answers, key=lambda each: each.ended):
        known = [_until(each, where.ended) for each in operations if each.began < where.ended]
        before = [each for each in known if each.method != "where" or each.ended <= where.ended]
        if not is_explained(before, rules):
            break
    others = [each for each in before if each is not where]
    gateways = sorted({each.gateway for each in others if each.connection})
    possible = tuple(
        found
        for found in (None, *gateways)
        if is_explained([*others, replace(where, result=found)], rules)
    )
    if is_explained(before, replace(rules, are_owned=False)):
        return Contradiction(where, possible, "owned")
    if is_explained(before, replace(rules, are_timed=False)):
        return Contradiction(where, possible, "timed")
    return Contradiction(where, possible, "gone" if possible == (None,) else "found")


def _until(operation: Operation, moment: float) -> Operation:
    """An operation as it was known at a moment: what ended later may have taken effect, or not."""
    return replace(operation, has_returned=False) if operation.ended > moment else operation
