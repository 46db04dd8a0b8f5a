"""GatewayMaintenance: the periodic checks of a gateway.

They are about idle and slow clients, unacknowledged pushes, routes and presence.
"""

import asyncio
from collections.abc import Callable

from mpim_lab.events import now
from mpim_lab.im.gateway.config import GatewayConfig, GatewayServices
from mpim_lab.im.gateway.metrics import GatewayMetrics
from mpim_lab.im.gateway.presence_watcher import PresenceWatcher
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.gateway.session_registry import SessionRegistry
from mpim_lab.im.protocol.periodic import run_periodically

_SESSIONS_PER_TICK = 250
_MAX_CONCURRENT = 50  # clients notified at the same time, after a gap
_PRESENCE_INTERVAL_S = 15.0


class GatewayMaintenance:
    """The maintenance tasks of one gateway. `close_session(session, reason)` closes a session."""

    def __init__(
        self,
        services: GatewayServices,
        sessions: SessionRegistry,
        presence_watcher: PresenceWatcher,
        metrics: GatewayMetrics,
        config: GatewayConfig,
        close_session: Callable[[Session, str], None],
    ) -> None:
        self._services, self._sessions = services, sessions
        self._metrics, self._config = metrics, config
        self._close_session = close_session
        self._routes_renewed_at, self._presence_refreshed_at = now(), now()
        self._presence_watcher = presence_watcher
        self._lagging: set[Session] = set()  # to be notified after a gap
        self._presence_interval_s = min(_PRESENCE_INTERVAL_S, services.presence.ttl_s / 3)

    async def run(self) -> None:
        """Run all tasks until cancelled.

        None waits for another, and an error ends only its own round.
        """
        tasks = (
            self.check_sessions,
            self.renew_routes,
            self.refresh_presence,
            self.notify_lag,
            self._services.presence.retry_unbinds,
            self._sessions.channels.retry_pending,
        )
        interval_s = self._config.maintenance_interval_s
        await asyncio.gather(
            *(run_periodically(f"maintenance, {work.__name__}", work, interval_s) for work in tasks)
        )

    async def check_sessions(self) -> None:
        """Close idle and slow clients, and push again to those that caught up.

        Remind those that have not acknowledged.
        """
        sessions = list(self._sessions)
        for begin in range(0, len(sessions), _SESSIONS_PER_TICK):
            for session in sessions[begin : begin + _SESSIONS_PER_TICK]:
                if not session.is_ending:
                    self._check_session(session, now())
            # ten thousand would delay everybody's messages for some milliseconds
            await asyncio.sleep(0)

    def _check_session(self, session: Session, moment: float) -> None:
        config = self._config
        session.ack_count = session.ws.idle_frames = 0
        if session.violations:
            decay = config.max_violations * config.maintenance_interval_s / config.violation_decay_s
            session.violations = max(0.0, session.violations - decay)
        if moment - session.last_received_at > config.idle_timeout_s:
            self._metrics.silent += 1
            self._close_session(session, f"silent for {config.idle_timeout_s:g} s")
        elif session.is_over_limit(config.max_send_buffer_bytes):
            self.close_slow_consumer(session)
        elif session.lagging is not None:
            self._check_lagging(session, moment)
        elif (
            session.unacked
            and moment - session.pushed_at > config.ack_timeout_s
            and self._services.messages.ordered
        ):
            self._metrics.reminded += 1
            session.remind()

    def _check_lagging(self, session: Session, moment: float) -> None:
        if not session.is_welcome:
            return
        if session.buffered_bytes == 0:
            session.resume_pushes()
        elif moment - session.pushed_at > self._config.slow_consumer_timeout_s:
            self.close_slow_consumer(session)

    def close_slow_consumer(self, session: Session) -> None:
        """Close a client that does not read what is sent to it."""
        self._metrics.slow += not session.is_ending
        self._close_session(session, "what was sent is not read")

    async def renew_routes(self) -> None:
        """Renew the routes (a heartbeat), every third of their ttl.

        Close a client whose device is connected elsewhere.
        """
        presence = self._services.presence
        if now() - self._routes_renewed_at < presence.ttl_s / 3:
            return
        here = [
            session for session in self._sessions if session.is_welcome and not session.is_ending
        ]
        bound = {session.route.connection: session for session in here}
        routes = [session.route for session in here]
        for route in await presence.renew(routes[0].gateway, routes) if routes else []:
            self._metrics.replaced += 1
            self._close_session(
                bound[route.connection], "replaced: this device is connected elsewhere"
            )
        self._routes_renewed_at = now()
        for session in here:
            if session not in self._sessions:
                # it may have been removed meanwhile, and its route been stored again
                await presence.unbind_route(session.route)

    async def refresh_presence(self) -> None:
        """Retry failed watches.

        Find statuses that changed without a notification, because a gateway died.
        """
        if now() - self._presence_refreshed_at < self._presence_interval_s:
            return
        await self._presence_watcher.retry_pending()
        self._presence_refreshed_at = now()
        await self._presence_watcher.refresh()

    def note_gap(self) -> None:
        """Note that pushes to every session were lost: the connection from the server was down."""
        self._lagging.update(self._sessions)

    async def notify_lag(self) -> None:
        """After a gap, send each client its last numbers.

        What fails is retried in the next round.
        """
        permits = asyncio.Semaphore(_MAX_CONCURRENT)
        lagging = [each for each in self._lagging if each in self._sessions]
        self._lagging = set()

        async def notify(session: Session) -> None:
            async with permits:
                known = await self._services.messages.conversations(session.route.uid)
                behind = {name: last for name, (acked, last) in known.items() if last > acked}
                session.send_hints(behind)

        errors = await asyncio.gather(*map(notify, lagging), return_exceptions=True)
        self._lagging.update(
            session for session, error in zip(lagging, errors, strict=True) if error is not None
        )
        for error in errors:
            if error is not None:
                raise error
