"""Gateway cases: what `mpim-lab bench gateway` has the clients do."""

from dataclasses import dataclass

# Clients a process that are connected before memory is looked at: what a server loads once is not
# theirs.
WARM_UP = 25
CONNECT, NOTICE = "connect", "notice to all"


@dataclass(frozen=True)
class GatewaySchedule:
    """How many clients, processes and rounds; the rate and the seconds of what goes on for a while.

    closed: (senders, messages of each that may be unanswered).

        >>> QUICK_GATEWAY.cases
        ('connect', '1,000 msg/s', '200 × 1', '200 × 8', 'notice to all', 'group of 1,000')
    """

    clients: int
    offered_per_s: int
    steady_s: float
    closed_s: float
    rounds: int
    closed: tuple[tuple[int, int], ...] = ((200, 1), (200, 8))
    members: int = 1_000
    notices: int = 3
    group_messages: int = 5
    processes: int = 2

    @property
    def steady_case(self) -> str:
        """Messages at a rate."""
        return f"{self.offered_per_s:,} msg/s"

    @property
    def group_case(self) -> str:
        """A message to a group."""
        return f"group of {min(self.members, self.clients):,}"

    @property
    def cases(self) -> tuple[str, ...]:
        """All, in the order in which they are run."""
        closed = [closed_case(*case) for case in self.closed]
        return (CONNECT, self.steady_case, *closed, NOTICE, self.group_case)


def closed_case(senders: int, in_flight: int) -> str:
    """Clients that write, and how many messages of each may be unanswered."""
    return f"{senders:,} × {in_flight}"


FULL_GATEWAY = GatewaySchedule(
    clients=10_000, offered_per_s=5_000, steady_s=4.0, closed_s=2.0, rounds=3
)
QUICK_GATEWAY = GatewaySchedule(
    clients=1_000, offered_per_s=1_000, steady_s=2.0, closed_s=1.0, rounds=2
)
