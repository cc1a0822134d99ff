"""How each kind of server is spoken to: to be let in, to be sent events, to ask for one."""

import json
from dataclasses import dataclass
from typing import Protocol


class Dialect(Protocol):
    """What a client of a server says."""

    path: str

    def hello(self) -> tuple[bytes, ...]:
        """Messages after the handshake that make it a reader."""
        ...

    def ready(self, payload: bytes) -> bool:
        """Whether this answer to `hello` says that it is one; not asked where that is empty."""
        ...

    def event(self, text: str) -> bytes:
        """A message that has this text sent to all readers."""
        ...

    def answer(self, payload: bytes) -> bytes | None:
        """What this message of the server's wants to be answered. Exits if it is an error."""
        ...


@dataclass(frozen=True)
class Plain:
    """Whoever is connected is a reader; what one sends is sent to all."""

    path: str = "/"

    def hello(self) -> tuple[bytes, ...]:
        return ()

    def ready(self, payload: bytes) -> bool:
        return True

    def event(self, text: str) -> bytes:
        return _json({"text": text})

    def answer(self, payload: bytes) -> bytes | None:
        return None


@dataclass(frozen=True)
class SocketIo:
    """Socket.IO 5 over Engine.IO 4, without a long poll before."""

    path: str = "/socket.io/?EIO=4&transport=websocket"

    def hello(self) -> tuple[bytes, ...]:
        return (b"40",)

    def ready(self, payload: bytes) -> bool:
        return payload.startswith(b"40")

    def event(self, text: str) -> bytes:
        return b"42" + _json(["shout", {"text": text}])

    def answer(self, payload: bytes) -> bytes | None:
        return b"3" if payload == b"2" else None


@dataclass(frozen=True)
class Ferrule:
    """Ferrule's messages about one channel; `says` is what asks for an event: signal or pub."""

    channel: str
    says: str = "signal"
    path: str = "/api/v1/ws"

    def hello(self) -> tuple[bytes, ...]:
        return (_json({"id": 1, "t": "sub", "ch": self.channel}),)

    def ready(self, payload: bytes) -> bool:
        self.answer(payload)
        said = json.loads(payload)
        return said["t"] == "ok" and said.get("id") == 1

    def event(self, text: str) -> bytes:
        asked = {"id": 2, "t": "pub"} if self.says == "pub" else {"t": "signal"}
        return _json({**asked, "ch": self.channel, "data": {"text": text}})

    def answer(self, payload: bytes) -> bytes | None:
        if b'"t":"err"' in payload or b'"t":"gone"' in payload:
            raise SystemExit(f"Ferrule said {payload.decode()}")
        return b'{"t":"pong"}' if b'"t":"ping"' in payload else None


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
