"""Patrol: what a gateway looks after now and then: the silent, the slow, the unacknowledged, the routes, the watched."""

import asyncio
from collections.abc import Callable

from mpim_lab.events import now
from mpim_lab.im.gateway.config import GatewayConfig, GatewayServices
from mpim_lab.im.gateway.metrics import GatewayMetrics
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.gateway.session_registry import Lobby, Watching
from mpim_lab.im.protocol.frames import PresenceChanged, encode
from mpim_lab.im.protocol.periodic import run_periodically

_LOOKED_AT_ONCE = 250
_AT_ONCE = 50  # clients asked about at the same time, after a gap
_WATCHED_EVERY_S = 15.0


class Patrol:
    """`end(session, reason)` ends a connection and says why."""

    def __init__(
        self,
        services: GatewayServices,
        lobby: Lobby,
        watching: Watching,
        figures: GatewayMetrics,
        config: GatewayConfig,
        end: Callable[[Session, str], None],
    ) -> None:
        self._services, self._lobby, self._figures, self._config, self._end = services, lobby, figures, config, end
        self._renewed_at, self._looked_at = now(), now()
        self._watching = watching
        self._untold: set[Session] = set()  # after a gap, how far things are
        self._watched_every_s = min(_WATCHED_EVERY_S, services.presence.ttl_s / 3)

    async def run(self) -> None:
        """Go round until cancelled. What needs no server is not held up by it, and nothing by what failed before it."""
        rounds = (
            self.look_at_clients,
            self.renew_routes,
            self.look_at_watched,
            self.tell_everybody_behind,
            self._services.presence.retry_unbinds,
            self._lobby.channels.again,
        )
        await asyncio.gather(
            *(
                run_periodically(f"patrol, {work.__name__}", work, self._config.maintenance_interval_s)
                for work in rounds
            )
        )

    async def look_at_clients(self) -> None:
        """End the silent and the slow, let who has caught up have pushes again, remind who has not acknowledged."""
        sessions = list(self._lobby)
        for begin in range(0, len(sessions), _LOOKED_AT_ONCE):
            for session in sessions[begin : begin + _LOOKED_AT_ONCE]:
                if not session.is_ending:
                    self._look_at(session, now())
            await asyncio.sleep(0)  # ten thousand would hold up everybody's messages for some milliseconds

    def _look_at(self, session: Session, moment: float) -> None:
        config = self._config
        session.acks = session.ws.idle_frames = 0
        if session.faults:
            session.faults = max(
                0.0, session.faults - config.max_violations * config.maintenance_interval_s / config.violation_decay_s
            )
        if moment - session.heard_at > config.idle_timeout_s:
            self._figures.silent += 1
            self._end(session, f"silent for {config.idle_timeout_s:g} s")
        elif session.is_flooded(config.max_send_buffer_bytes):
            self.end_slow(session)
        elif session.behind is not None:
            self._look_at_slow(session, moment)
        elif session.unacked and moment - session.pushed_at > config.ack_timeout_s and self._services.messages.ordered:
            self._figures.reminded += 1
            session.remind()

    def _look_at_slow(self, session: Session, moment: float) -> None:
        if not session.is_welcome:
            return
        if session.buffered_bytes == 0:
            session.catch_up()
        elif moment - session.pushed_at > self._config.slow_consumer_timeout_s:
            self.end_slow(session)

    def end_slow(self, session: Session) -> None:
        """End a client that does not read what is sent to it."""
        self._figures.slow += not session.is_ending
        self._end(session, "what was sent is not read")

    async def renew_routes(self) -> None:
        """The heartbeat: every third of a lifetime. A client whose device is connected elsewhere by now is ended here."""
        presence = self._services.presence
        if now() - self._renewed_at < presence.ttl_s / 3:
            return
        here = [session for session in self._lobby if session.is_welcome and not session.is_ending]
        bound = {session.route.connection: session for session in here}
        routes = [session.route for session in here]
        for route in await presence.renew(routes[0].gateway, routes) if routes else []:
            self._figures.replaced += 1
            self._end(bound[route.connection], "replaced: this device is connected elsewhere")
        self._renewed_at = now()
        for session in here:
            if session not in self._lobby:  # it may have left meanwhile, and its route been made again
                await presence.unbind_route(session.route)

    async def look_at_watched(self) -> None:
        """Watching that could not begin; statuses that changed without a notice: a gateway died, its routes just ended."""
        if now() - self._looked_at < self._watched_every_s:
            return
        await self._watching.again()
        self._looked_at = now()
        statuses = await self._services.presence.statuses(self._lobby.watched)
        for uid, status in statuses.items():
            if self._lobby.told.get(uid) not in (None, status):
                self.tell_status(uid, status)

    def tell_status(self, uid: str, status: str) -> None:
        """Tell who watches a user."""
        for session in self._lobby.tell(uid, status):
            session.say(encode(PresenceChanged(uid, status)))

    def note_gap(self) -> None:
        """The line from the server was down: pushes were lost, to everybody who is here."""
        self._untold.update(self._lobby)

    async def tell_everybody_behind(self) -> None:
        """After a gap, tell each client how far its conversations are; who cannot be told now is told in the next round."""
        turns, untold = asyncio.Semaphore(_AT_ONCE), [each for each in self._untold if each in self._lobby]
        self._untold = set()

        async def tell(session: Session) -> None:
            async with turns:
                known = await self._services.messages.conversations(session.route.uid)
                behind = {name: last for name, (acked, last) in known.items() if last > acked}
                session.say_behind(behind)

        errors = await asyncio.gather(*map(tell, untold), return_exceptions=True)
        self._untold.update(session for session, error in zip(untold, errors, strict=True) if error is not None)
        for error in errors:
            if error is not None:
                raise error
