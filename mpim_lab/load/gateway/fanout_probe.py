"""FanoutProbe: one message to a group or to everybody, and how long until the last one has it.

Methods are orders.
"""

from functools import partial

from redis.asyncio import Redis

from mpim_lab.events import now
from mpim_lab.im.protocol.frames import Broadcast, encode
from mpim_lab.keys import BROADCAST_CHANNEL
from mpim_lab.load.gateway.socketio_protocol import SocketIoProtocol
from mpim_lab.load.gateway.swarm import ClientSwarm, Found


class ReachCounter:
    """Whom one announcement has reached. A second receipt counts as one.

    >>> reach = ReachCounter()
    >>> reach.begin("n1")
    >>> for place, text in ((7, "n1"), (7, "n1"), (8, "n0"), (9, "n1")):
    ...     reach.add(place, text)
    >>> reach.reached
    2
    """

    def __init__(self) -> None:
        self.begin("")

    def begin(self, text: str) -> None:
        """Forget what was; only announcements with this text count."""
        self._text, self.last_at = text, 0.0
        self._places: set[int] = set()

    def add(self, place: int, text: str) -> None:
        """One client has it."""
        if text == self._text and place not in self._places:
            self._places.add(place)
            self.last_at = now()

    @property
    def reached(self) -> int:
        """How many clients have it."""
        return len(self._places)


class FanoutProbe:
    """One process's part in groups and notices."""

    def __init__(self, swarm: ClientSwarm) -> None:
        self._swarm, self._plan = swarm, swarm.plan
        self._reach = ReachCounter()

    async def listen(self, text: str) -> Found:
        """From now on count whom this announcement reaches; every process before it is made."""
        self._reach.begin(text)
        for place, client in enumerate(self._swarm.clients):
            client.on_pushed = client.on_notice = partial(self._reach.add, place)
        return {}

    async def reached(self) -> Found:
        """How many of this process's clients have it, and when the last of them got it."""
        self._swarm.check()
        return {"reached": self._reach.reached, "last_at": self._reach.last_at}

    async def create_group(self, group: str, members: list[int]) -> Found:
        """The first member, one of ours, makes the group.

        Gives how many members are in it by that.
        """
        client = self._swarm.by_number(members[0])
        frame, count = client.protocol.create_group(
            self._plan.group_name(group), [self._plan.uid(number) for number in members]
        )
        await self._swarm.ask(client, frame)
        return {"count": count}

    async def join_group(self, group: str, members: list[int]) -> Found:
        """Those of the members who are ours join, one after another."""
        own = [self._swarm.by_number(number) for number in members if number in self._plan.mine]
        for client in own:
            await self._swarm.ask(client, client.protocol.join_group(self._plan.group_name(group)))
        return {"joined": len(own)}

    async def send_group(self, group: str, member: int, text: str) -> Found:
        """One of ours writes to the group; gives when."""
        client, sent_at = self._swarm.by_number(member), now()
        await self._swarm.ask(
            client, client.protocol.send_group(text, self._plan.group_name(group), text)
        )
        return {"sent_at": sent_at}

    async def notice(self, text: str) -> Found:
        """Everybody gets a notice; gives when it was asked for.

        MPIM's operator publishes it on the channel of notices; Socket.IO's server is asked by a
        client.
        """
        protocol = self._swarm.clients[0].protocol
        if isinstance(protocol, SocketIoProtocol):
            sent_at = now()
            self._swarm.clients[0].send(protocol.notice(text, text))
            return {"sent_at": sent_at}
        async with Redis.from_url(self._plan.redis_url, protocol=3) as operator:
            await operator.ping()
            sent_at = now()
            await operator.publish(
                self._plan.prefix + BROADCAST_CHANNEL,
                f"{text} ".encode() + encode(Broadcast(text, text)),
            )
        return {"sent_at": sent_at}
