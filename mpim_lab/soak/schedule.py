"""Schedule: messages and several faults, all chosen by one seed, each fault placed by message.

| fault                     | hits                              | lasts                         |
|---------------------------|-----------------------------------|-------------------------------|
| request lost, answer lost | the sender's line, at its message | once                          |
| given up                  | the sender's line, at its message | for all attempts of a sender  |
| request late              | the sender's line, at its message | `duration` of its messages    |
| sent twice                | the client, through both senders  | once                          |
| crash before, after work  | who is given the message first    | once; another is started      |
| commit lost               | the line of whoever is given it   | once                          |
| answer to the worker lost | the line of whoever is given it   | once                          |
| commit late               | the line of whoever is given it   | until another has done it     |
| zombie                    | who is given the message first    | until another has done it     |
| slow worker               | who is given the message first    | for `duration` effects, or so |
| rebalance                 | one worker joins, another leaves  | once, before the message      |
| server kill               | the server, before the message    | until it is started again     |

Several workers, two senders and the faults go on at the same time: the schedule is the same in
every run of a seed, what it meets is not. So a seed proves a failure when it fails, and many seeds
that do not fail are evidence.
"""

import random
from dataclasses import dataclass
from typing import Self

from mpim_lab.events import message_id
from mpim_lab.lab.workload.workload import Workload

SENDER_CONNECTION_KINDS = ("request lost", "answer lost", "given up", "request late", "sent twice")
WORKER_CONNECTION_KINDS = ("commit lost", "answer to the worker lost", "commit late")
WORKER_KINDS = (
    "crash before work",
    "crash after work",
    "zombie",
    "slow worker",
    *WORKER_CONNECTION_KINDS,
)
KINDS = (*SENDER_CONNECTION_KINDS, *WORKER_KINDS, "rebalance")
SENDERS = 2
LEASES_MS = (200, 200, 600)  # the last: longer than a worker waits for an answer
# the last: longer than a lease, so that workers are idle for as long
PAUSES_MS = (*(0,) * 4, 2, 2, 10, 10, 40, 40, 300)
KILL_EVERY = 10  # one schedule in so many has a server of its own, which is killed
AFTER_THE_LAST = 3  # so many messages of a sender come after the last that its line breaks under


@dataclass(frozen=True)
class PlannedMessage:
    """One message: who sends it, in which conversation, after which pause."""

    name: str
    sender: int
    conversation: str
    payload: bytes
    pause_ms: int


@dataclass(frozen=True)
class PlannedFault:
    """One fault: `kind` hits one message and lasts for so many further messages or effects."""

    kind: str
    message: str
    duration: int


@dataclass(frozen=True)
class Schedule:
    """What one seed has in store.

    `workers`: how many are awake at the same time, at least, with which leases.
    """

    seed: int
    messages: tuple[PlannedMessage, ...]
    faults: tuple[PlannedFault, ...]
    workers: int
    lease_ms: int

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """About 20 messages in three conversations, four to eight faults.

        One seed in ten kills the server as well.

        >>> schedule = Schedule.from_seed(1)
        >>> len(schedule.messages), len(schedule.faults), schedule.workers
        (20, 7, 2)
        >>> schedule == Schedule.from_seed(1), Schedule.from_seed(10).kills_server
        (True, True)
        """
        rng = random.Random(f"soak {seed}")
        talks = [f"talk-{number}" for number in rng.sample(range(100), 3)]
        messages = tuple(
            PlannedMessage(
                name=message_id(payload),
                sender=number % SENDERS if number < 2 * SENDERS else rng.randrange(SENDERS),
                conversation=rng.choice(talks),
                payload=payload,
                pause_ms=rng.choice(PAUSES_MS),
            )
            for number, payload in enumerate(Workload(seed, rng.randint(18, 22)))
        )
        faults = tuple(_choose_faults(rng, messages, seed))
        return cls(
            seed, messages, faults, workers=rng.randint(2, 3), lease_ms=rng.choice(LEASES_MS)
        )

    @property
    def kills_server(self) -> bool:
        """Return whether it kills the server: then it needs one of its own."""
        return any(fault.kind == "server kill" for fault in self.faults)

    def faults_of(self, *kinds: str) -> dict[str, PlannedFault]:
        """Return the faults of these kinds, by message."""
        return {fault.message: fault for fault in self.faults if fault.kind in kinds}

    def __str__(self) -> str:
        who = f"{len(self.messages)} messages, {self.workers} workers, lease {self.lease_ms} ms"
        faults = (f"{each.kind} at {each.message} ({each.duration})" for each in self.faults)
        return f"seed {self.seed}: {who}; {', '.join(faults)}"


def _choose_faults(
    rng: random.Random, messages: tuple[PlannedMessage, ...], seed: int
) -> list[PlannedFault]:
    """At most one fault a message, so that none hides another."""
    kinds = rng.choices(KINDS, k=rng.randint(4, 8)) + ["server kill"] * (seed % KILL_EVERY == 0)
    free = [planned.name for planned in messages]
    of_sender = [
        [planned.name for planned in messages if planned.sender == sender]
        for sender in range(SENDERS)
    ]
    ends = {name for names in of_sender for name in names[-AFTER_THE_LAST:]}
    chosen = []
    for kind in kinds:
        places = (
            [name for name in free if name not in ends] if kind in SENDER_CONNECTION_KINDS else free
        )
        if places:
            free.remove(place := rng.choice(places))
            chosen.append(PlannedFault(kind, place, rng.randint(1, 4)))
    return sorted(chosen, key=lambda fault: int(fault.message[1:]))
