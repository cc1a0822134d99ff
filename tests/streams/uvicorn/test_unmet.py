"""What our protocols stand on is there, or said to be missing."""

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import Protocol

from ferrule.streams.uvicorn.unmet import unmet


def test_what_it_stands_on_is_there() -> None:
    """If this fails after an upgrade, read what changed in uvicorn or websockets, and follow it.

    Until then `ferrule serve` serves WebSockets by uvicorn's own protocol.
    """
    assert unmet() == []


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(WebSocketsSansIOProtocol, "handle_ping")
    monkeypatch.setattr(WebSocketsSansIOProtocol, "send", lambda self, message, more: None)
    monkeypatch.delattr(Protocol, "data_to_send")
    assert unmet() == [
        "uvicorn's WebSocketsSansIOProtocol.send does not take ('message',)",
        "uvicorn's WebSocketsSansIOProtocol has no handle_ping",
        "websockets' ServerProtocol has no data_to_send",
    ]
    monkeypatch.setattr(WebSocketsSansIOProtocol, "__init__", lambda self: None)
    assert any("cannot be made" in each for each in unmet())
