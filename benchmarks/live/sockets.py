"""WebSocket clients that cost little: one epoll for all, frames counted by their boundaries alone.

A frame costs them about 2 µs of CPU, most of it the kernel's, which is less than it costs any
server to write it.
"""

import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from benchmarks.live.dialects import Dialect
from benchmarks.live.frames import (
    CLOSE,
    EVENT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    client_frame,
    frames,
)

BUFFER = 2**18
MANY = 20_000
"""More than the sockets that can be ready at once."""
AT_ONCE = 64
"""Connections that are being made at the same time."""
SOURCES = 16
"""Addresses that connections come from, as each has 28,000 ports, some of them still waiting."""
PATIENCE = 60.0
"""Seconds that may pass without a connection being made."""
SWEEP = 0.004
"""Seconds between two looks at all connections."""
NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Door:
    """Where a server lets clients in, and the tokens that they show in turn."""

    port: int
    dialect: Dialect
    tokens: Sequence[str] = ("",)


class Peer:
    """A connection; `heard` is told the bounds of each event's payload in the buffer."""

    __slots__ = (
        "dialect", "events", "heard", "port", "ready", "receive", "rest", "socket", "upgraded",
    )  # fmt: skip

    def __init__(self, connected: socket.socket, door: Door) -> None:
        self.socket = connected
        self.receive = connected.recv_into
        self.port, self.dialect = door.port, door.dialect
        self.upgraded = self.ready = False
        self.events = 0
        self.rest = 0
        self.heard: Callable[[Peer, int, int], None] = _count

    def send(self, message: bytes) -> None:
        """A text message, which must fit into what the kernel takes at once."""
        self.put(client_frame(message))

    def put(self, data: bytes) -> None:
        if self.socket.send(data) < len(data):
            raise SystemExit("A server does not read what the benchmark sends.")


def _count(peer: Peer, start: int, end: int) -> None:
    peer.events += 1


class Sockets:
    """All connections of a run."""

    def __init__(self) -> None:
        self.buffer = bytearray(BUFFER)
        self.lost: Counter[int] = Counter()
        self.told: Callable[[Peer, bytes], None] | None = None
        self._view = memoryview(self.buffer)
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}
        self._rests: dict[int, bytes] = {}

    def turn(self, seconds: float) -> None:
        """Handle what has come, or comes in so many seconds."""
        self._handle(self._epoll.poll(max(0.0, seconds), MANY))

    def run(self, seconds: float) -> None:
        """Handle what comes for so long."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            self.turn(left)

    def sweep(self, scouts: Sequence[Peer], done: Callable[[], bool]) -> None:
        """Handle what comes until it is done.

        What comes to the scouts is handled at once, all else every few milliseconds: several
        frames are read at a time, as by clients on other machines, who do not slow the server down.
        """
        quick = select.epoll()
        for peer in scouts:
            quick.register(peer.socket.fileno(), select.EPOLLIN)
        with closing(quick):
            while not done():
                again = time.perf_counter() + SWEEP
                self.turn(0)
                while (left := again - time.perf_counter()) > 0:
                    self._handle(quick.poll(left, MANY))

    def until(self, done: Callable[[], bool], patience: float) -> bool:
        """Handle what comes until it is done, and whether it was."""
        end = time.perf_counter() + patience
        while not done():
            if (left := end - time.perf_counter()) <= 0:
                return False
            self.turn(min(left, 0.2))
        return True

    def connect(self, door: Door, number: int) -> list[Peer]:
        """So many readers of a server; exits if it does not let all of them in."""
        made: list[Peer] = []
        waiting: deque[Peer] = deque()
        at = time.perf_counter()
        while len(made) < number or waiting:
            while len(made) < number and len(waiting) < AT_ONCE:
                peer = self._open(door, len(made))
                made.append(peer)
                waiting.append(peer)
            self.turn(0.2)
            before = len(waiting)
            waiting = deque(peer for peer in waiting if not peer.ready)
            at = time.perf_counter() if len(waiting) < before else at
            if self.lost or time.perf_counter() - at > PATIENCE:
                raise SystemExit(
                    f"Port {door.port} let {len(made) - len(waiting)} of {number} readers in, and "
                    f"so many were lost, by port: {dict(self.lost)}."
                )
        return made

    @contextmanager
    def connected(self, door: Door, number: int) -> Iterator[list[Peer]]:
        """So many readers until the block ends."""
        peers = self.connect(door, number)
        try:
            yield peers
        finally:
            for peer in peers:
                self.leave(peer)

    def leave(self, peer: Peer) -> None:
        """Forget it at once."""
        number = peer.socket.fileno()
        self._rests.pop(number, None)
        if self._peers.pop(number, None) is not None:
            self._epoll.unregister(number)
            # So that its port is free at once.
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            peer.socket.close()

    def close(self) -> None:
        for peer in list(self._peers.values()):
            self.leave(peer)
        self._epoll.close()

    def _handle(self, ready: Iterable[tuple[int, int]]) -> None:
        buffer, peers, rests = self.buffer, self._peers, self._rests
        for number, _ in ready:
            peer = peers.get(number)
            if peer is None:
                continue
            try:
                if rest := peer.rest:
                    buffer[:rest] = rests.pop(number)
                    peer.rest = 0
                    size = rest + self._more(peer, rest)
                else:
                    size = peer.receive(buffer)
            except BlockingIOError:
                continue
            except ConnectionError:
                size = 0
            if not size:
                self._lose(number)
            # What comes nearly always: one event alone.
            elif (
                peer.ready
                and buffer[0] == TEXT
                and buffer[1] == 126
                and (buffer[2] << 8) + buffer[3] + 4 == size
                and size >= EVENT + 4
            ):
                peer.heard(peer, 4, size)
            else:
                self._read(number, peer, size)

    def _open(self, door: Door, number: int) -> Peer:
        made = socket.socket()
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind((f"127.0.0.{1 + number % SOURCES}", 0))
        made.connect(("127.0.0.1", door.port))
        peer = Peer(made, door)
        token = door.tokens[number % len(door.tokens)]
        headers = f"Authorization: Bearer {token}\r\n" if token else ""
        path = door.dialect.path
        peer.put(HANDSHAKE.format(path=path, port=door.port, headers=headers).encode())
        made.setblocking(False)
        self._peers[made.fileno()] = peer
        self._epoll.register(made.fileno(), select.EPOLLIN)
        return peer

    def _more(self, peer: Peer, rest: int) -> int:
        """What came behind the start of a frame; the connection is lost where nothing did."""
        size = peer.receive(self._view[rest:])
        if not size:
            raise ConnectionResetError
        return size

    def _read(self, number: int, peer: Peer, size: int) -> None:
        """All whole frames; what is behind them is kept."""
        buffer, at = self.buffer, 0
        if not peer.upgraded:
            at = self._upgrade(peer, size)
            if at:
                size -= at
                buffer[:size] = bytes(buffer[at : at + size])
            at = 0
        if peer.upgraded:
            for first, start, end in frames(buffer, size):
                if peer.ready and first == TEXT and end - start >= EVENT:
                    peer.heard(peer, start, end)
                else:
                    self._small(peer, first, bytes(buffer[start:end]))
                at = end
        if at < size and number in self._peers:
            self._rests[number] = bytes(buffer[at:size])
            peer.rest = size - at

    def _upgrade(self, peer: Peer, size: int) -> int:
        """Where the answer to the handshake ends; 0 if it does not yet."""
        end = self.buffer.find(b"\r\n\r\n", 0, size)
        if end < 0:
            return 0
        if not self.buffer.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"A handshake was refused: {self.buffer[:size][:300].decode()}")
        peer.upgraded = True
        hello = peer.dialect.hello()
        peer.ready = not hello
        for message in hello:
            peer.send(message)
        return end + 4

    def _small(self, peer: Peer, first: int, payload: bytes) -> None:
        if first == PING:
            peer.put(client_frame(payload, PONG))
        elif first == CLOSE:
            said = payload[2:].decode(errors="replace")
            raise SystemExit(f"A server closed: {int.from_bytes(payload[:2])} {said}")
        elif not peer.ready:
            peer.ready = peer.dialect.ready(payload)
        elif (answer := peer.dialect.answer(payload)) is not None:
            peer.send(answer)
        elif self.told is not None:
            self.told(peer, payload)

    def _lose(self, number: int) -> None:
        peer = self._peers.pop(number)
        self.lost[peer.port] += 1
        self._epoll.unregister(number)
        self._rests.pop(number, None)
        peer.socket.close()
