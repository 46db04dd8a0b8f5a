"""Patrol: what a gateway looks after now and then: the silent, the slow, the unacknowledged, the routes, the watched."""

import asyncio
import logging
from collections.abc import Callable

from mpim_lab.errors import MpimError
from mpim_lab.events import now
from mpim_lab.im.figures import Figures
from mpim_lab.im.lobby import Lobby
from mpim_lab.im.services import GatewayLimits, Services
from mpim_lab.im.session import Session
from mpim_lab.im.watching import Watching
from mpim_lab.im.wire import Behind, Status, encode

_LOOKED_AT_ONCE = 250
_AT_ONCE = 50  # clients asked about at the same time, after a gap
_WATCHED_EVERY_S = 15.0
_log = logging.getLogger(__name__)


class Patrol:
    """`end(session, reason)` ends a connection and says why."""

    def __init__(
        self,
        services: Services,
        lobby: Lobby,
        watching: Watching,
        figures: Figures,
        limits: GatewayLimits,
        end: Callable[[Session, str], None],
    ) -> None:
        self._services, self._lobby, self._figures, self._limits, self._end = services, lobby, figures, limits, end
        self._renewed_at, self._looked_at = now(), now()
        self._watching = watching
        self._watched_every_s = min(_WATCHED_EVERY_S, services.presence.lifetime_s / 3)

    async def run(self) -> None:
        """Go round until cancelled; a line to the server that is down is no reason to stop."""
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            try:
                await self.look_at_clients()
                await self.renew_routes()
                await self.look_at_watched()
            except MpimError as error:
                _log.info("the patrol is held up: %s", error)
            except Exception:
                _log.exception("the patrol goes on")

    async def look_at_clients(self) -> None:
        """End the silent and the slow, let who has caught up have pushes again, remind who has not acknowledged."""
        sessions = list(self._lobby)
        for begin in range(0, len(sessions), _LOOKED_AT_ONCE):
            for session in sessions[begin : begin + _LOOKED_AT_ONCE]:
                if not session.is_ending:
                    self._look_at(session, now())
            await asyncio.sleep(0)  # ten thousand would hold up everybody's messages for some milliseconds

    def _look_at(self, session: Session, moment: float) -> None:
        limits = self._limits
        session.acks = 0
        if session.faults:
            session.faults = max(0.0, session.faults - limits.most_faults * limits.sweep_s / limits.forgive_s)
        if moment - session.heard_at > limits.silent_s:
            self._figures.silent += 1
            self._end(session, f"silent for {limits.silent_s:g} s")
        elif session.is_flooded(limits.most_bytes):
            self.end_slow(session)
        elif session.behind is not None:
            self._look_at_slow(session, moment)
        elif session.unacked and moment - session.pushed_at > limits.resend_s and self._services.messages.ordered:
            self._figures.reminded += 1
            session.remind()

    def _look_at_slow(self, session: Session, moment: float) -> None:
        if not session.is_welcome:
            return
        if session.buffered_bytes == 0:
            session.catch_up()
        elif moment - session.pushed_at > self._limits.slow_s:
            self.end_slow(session)

    def end_slow(self, session: Session) -> None:
        """End a client that does not read what is sent to it."""
        self._figures.slow += not session.is_ending
        self._end(session, "what was sent is not read")

    async def renew_routes(self) -> None:
        """The heartbeat: every third of a lifetime. A client whose device is connected elsewhere by now is ended here."""
        presence = self._services.presence
        if now() - self._renewed_at < presence.lifetime_s / 3:
            return
        here = [session for session in self._lobby if session.is_welcome and not session.is_ending]
        bound = {session.route.connection: session for session in here}
        routes = [session.route for session in here]
        for route in await presence.renew(routes[0].gateway, routes) if routes else []:
            self._figures.replaced += 1
            self._end(bound[route.connection], "replaced: this device is connected elsewhere")
        self._renewed_at = now()
        for session in here:
            # it may have left meanwhile, and its route been made again
            if session not in self._lobby.of(session.route.uid):
                await presence.unbind_route(session.route)

    async def look_at_watched(self) -> None:
        """Watching that could not begin; statuses that changed without a notice: a gateway died, its routes just ended."""
        if now() - self._looked_at < self._watched_every_s:
            return
        self._looked_at = now()
        await self._watching.again()
        statuses = await self._services.presence.statuses(self._lobby.watched)
        for uid, status in statuses.items():
            if self._lobby.told.get(uid) not in (None, status):
                self.tell_status(uid, status)

    def tell_status(self, uid: str, status: str) -> None:
        """Tell who watches a user."""
        self._lobby.told[uid] = status
        for session in self._lobby.watchers(uid):
            session.say(encode(Status(uid, status)))

    async def tell_everybody_behind(self) -> None:
        """After a gap on the line from the server: pushes were lost; tell each client how far its conversations are."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def tell(session: Session) -> None:
            async with turns:
                known = await self._services.messages.conversations(session.route.uid)
                behind = {name: last for name, (acked, last) in known.items() if last > acked}
                if behind:
                    session.say(encode(Behind(behind)))

        results = await asyncio.gather(*(tell(each) for each in self._lobby), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                _log.warning("a client was not told after a gap: %s", error)
