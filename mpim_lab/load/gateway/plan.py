"""Plan: what one load process holds of a swarm of clients.

Client n of all is written to by client n - all/2 - 1.
"""

import os
from dataclasses import dataclass, field

MPIM, SOCKET_IO = "mpim", "socket.io"


@dataclass(frozen=True)
class SwarmPlan:
    """Clients `part`, of `parts`, of `clients` in all: of two parts the first has the first half.

    protocol: MPIM or SOCKET_IO. secret: what MPIM's tokens are signed with. redis_url: where MPIM's
    notices are published, under `prefix`.
    packed: whether MPIM's clients read batches, as its own client does. at_once: how many connect
        at a time.
    run: goes before every name, so that two runs on one server have nothing to do with each other.
    """

    protocol: str
    port: int
    clients: int
    part: int = 0
    parts: int = 1
    secret: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    prefix: str = ""
    run: str = field(default_factory=lambda: os.urandom(3).hex())
    text_bytes: int = 100
    at_once: int = 100
    packed: bool = True

    @property
    def mine(self) -> range:
        """The numbers of this part's clients.

        >>> [SwarmPlan("mpim", 80, clients=5, part=part, parts=2).mine for part in (0, 1)]
        [range(0, 2), range(2, 5)]
        """
        return range(
            self.part * self.clients // self.parts, (self.part + 1) * self.clients // self.parts
        )

    def uid(self, number: int) -> str:
        """The name of a client."""
        return f"{self.run}-{number}"

    def group_name(self, group: str) -> str:
        """The name of a group."""
        return f"{self.run}-{group}"

    def partner(self, number: int) -> int:
        """To whom a client writes: half the swarm away, so in another process.

        Nobody writes back to who wrote to them.

        >>> plan = SwarmPlan("mpim", 80, clients=1_000)
        >>> plan.partner(0), plan.partner(501)
        (501, 2)
        """
        return (number + self.clients // 2 + 1) % self.clients
