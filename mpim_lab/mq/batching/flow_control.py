"""Credit: how much may be on its way to receivers that have not said they took it in. A plain object; time is passed in.

The server hands a published batch over as fast as it comes and keeps what a receiver does not read, until it cuts that
receiver off (`client-output-buffer-limit pubsub`). A sender that is faster than a receiver must therefore be held back
by the receiver itself. This is credit-based flow control: AMQP's link credit (OASIS AMQP 1.0, 2.6.7), TCP's window.
"""

from collections import deque

from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times


class Credit:
    """At most about `max_bytes` unconfirmed; whoever is silent for `patience_s` is no longer waited for.

    The slowest receiver counts. One that never confirms (a plain client) is not known here and not waited for; where
    nobody confirms, the sender is held back once for `patience_s`, and then goes on until somebody does.

        >>> credit = Credit(max_bytes=100, patience_s=1.0)
        >>> credit.sent(1, 60, at=0.0), credit.sent(2, 60, at=0.0), credit.has_room(at=0.1)
        (None, None, False)
        >>> credit.confirmed(b"bob", 1, at=0.1), credit.has_room(at=0.1), credit.unconfirmed_bytes
        (None, True, 60)
    """

    def __init__(self, max_bytes: int = 512 * 1024, patience_s: float = 0.5) -> None:
        check_bounds(1, MAX_INT, max_bytes=max_bytes)
        check_times(patience_s=patience_s)
        self.max_bytes, self.patience_s = max_bytes, patience_s
        self.unconfirmed_bytes = 0
        self._batches: deque[tuple[int, int]] = deque()  # number, bytes; those not confirmed by everybody
        self._receivers: dict[bytes, tuple[int, float]] = {}  # the last number it confirmed, when it was last heard
        self._waiting_since = 0.0  # since when the oldest batch waits, or the last news came
        self._is_off = False

    def sent(self, number: int, size: int, at: float) -> None:
        """A batch leaves; numbers grow."""
        if not self._batches:
            self._waiting_since = at
        self._batches.append((number, size))
        self.unconfirmed_bytes += size

    def nobody(self, number: int) -> None:
        """The server handed this batch, the last one, to nobody: there is nobody to wait for."""
        self._receivers.clear()
        self._forget(number)

    def confirmed(self, receiver: bytes, number: int, at: float) -> None:
        """A receiver says that it took in everything up to `number`."""
        self._is_off = False
        last, _ = self._receivers.get(receiver, (0, at))
        self._receivers[receiver] = (max(last, number), at)
        self._waiting_since = at
        self._forget(min(last for last, _ in self._receivers.values()))

    def has_room(self, at: float) -> bool:
        """Whether another batch may leave now."""
        if self._is_off or self.unconfirmed_bytes < self.max_bytes:
            return True
        return self._give_up(at)

    def waits_until(self) -> float:
        """When to ask again if nothing is heard until then."""
        heard = [
            heard_at for last, heard_at in self._receivers.values() if self._batches and last < self._batches[0][0]
        ]
        return max(self._waiting_since, min(heard, default=0.0)) + self.patience_s

    def _give_up(self, at: float) -> bool:
        """Wait no longer for those who hold this up, once their time is over."""
        while self.unconfirmed_bytes >= self.max_bytes:
            if at < self.waits_until():
                return False
            oldest = self._batches[0][0]
            self._receivers = {name: seen for name, seen in self._receivers.items() if seen[0] >= oldest}
            if self._receivers:
                self._forget(min(last for last, _ in self._receivers.values()))
            else:
                self._forget(self._batches[-1][0])
                self._is_off = True
        return True

    def _forget(self, number: int) -> None:
        while self._batches and self._batches[0][0] <= number:
            self.unconfirmed_bytes -= self._batches.popleft()[1]
