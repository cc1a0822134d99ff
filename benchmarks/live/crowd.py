"""A thousand readers of one server, and the client that asks for what they are sent."""

import random
import time

from benchmarks.live import FRAME
from benchmarks.live.servers import LiveServer
from benchmarks.live.sockets import Peer, Sockets

WINDOW = 32
"""Events by which the first reader may be ahead of the last."""
PATIENCE = 5.0
"""Seconds without an event after which those that are missing are lost."""
SCOUTS = 8
"""Readers by which it is seen at once that an event is being sent."""
PADDING = 150
"""Length of the text by which it is found how long all that is around it is."""


class Crowd:
    """Asks for the next event as soon as somebody has the last.

    So the server is never without work, and never has two events to write in one turn of its loop,
    which some servers would send as one.
    """

    def __init__(self, sockets: Sockets, server: LiveServer, readers: int) -> None:
        self.contender = server.contender
        self.pids = server.pids
        self._sockets = sockets
        self._readers = sockets.connect(server.door, readers)
        (self._sender,) = sockets.connect(server.door, 1)
        self._sender.heard = self._look
        self._ahead = server.contender.ahead
        self._message = b""
        self._until = self._last = 0.0
        self._reset()
        self.frame = self._fit()

    def measure(self, seconds: float) -> tuple[int, int, float]:
        """Ask for so many seconds, and wait for the last event.

        How many events readers got, how many they did not, and the seconds that it took.
        """
        self._reset()
        began = self._last = time.perf_counter()
        self._until = began + seconds
        self._ask()
        scouts = [*random.sample(self._readers, min(SCOUTS, len(self._readers))), self._sender]
        self._sockets.sweep(scouts, self._done)
        return self._got, self._sent * len(self._readers) - self._got, self._last - began

    def _reset(self) -> None:
        self._got = self._seen = self._sent = self._first = 0
        for peer in self._readers:
            peer.events, peer.heard = 0, self._heard

    def _ask(self) -> None:
        everybody = self._got // len(self._readers)
        wanted = min(self._first + self._ahead, everybody + WINDOW)
        while self._sent < wanted and time.perf_counter() < self._until:
            self._sent += 1
            self._sender.send(self._message)

    def _heard(self, peer: Peer, start: int, end: int) -> None:
        number = peer.events = peer.events + 1
        self._got += 1
        if number > self._first:
            self._first = number
            self._ask()

    def _done(self) -> bool:
        """Whether all that was asked for has come, or nothing comes any more."""
        now = time.perf_counter()
        if self._got > self._seen:
            self._seen, self._last = self._got, now
        if now < self._until:
            self._ask()
            return False
        return self._got == self._sent * len(self._readers) or now - self._last > PATIENCE

    def _look(self, peer: Peer, start: int, end: int) -> None:
        """The sender may be a reader, too; what it is told may be an error."""
        peer.dialect.answer(bytes(self._sockets.buffer[start:end]))

    def _fit(self) -> int:
        """Make an event's frame as long as all others' are, if it can be; its length."""
        rest = self._one("x" * PADDING) - PADDING
        return self._one("x" * max(1, FRAME - rest))

    def _one(self, text: str) -> int:
        """The length of the frame in which every reader gets this text, once."""
        found: set[bytes] = set()

        def keep(peer: Peer, start: int, end: int) -> None:
            peer.events += 1
            found.add(bytes(self._sockets.buffer[start:end]))

        self._message = self._sender.dialect.event(text)
        self._reset()
        for peer in self._readers:
            peer.heard = keep
        self._sender.send(self._message)
        self._sockets.until(lambda: all(peer.events for peer in self._readers), 4 * PATIENCE)
        self._sockets.run(0.05)
        got = [peer.events for peer in self._readers]
        if set(got) != {1} or not all(text.encode() in each for each in found):
            raise SystemExit(
                f"{self.contender.name} sent {sum(got)} events to {sum(map(bool, got))} of "
                f"{len(got)} readers, instead of one to each: {[*found][:2]}"
            )
        return max(map(len, found)) + 4
