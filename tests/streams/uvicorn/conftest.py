"""Whoever does not read is aborted soon, and nothing of it is an error."""

from collections.abc import Iterator

import pytest

from ferrule.streams.uvicorn import http, websocket
from tests.streams.uvicorn.applications import ABORT


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol in (http, websocket):
        monkeypatch.setattr(protocol, "ABORT", ABORT)
    monkeypatch.setattr(http, "STALLED", 2 * ABORT)


@pytest.fixture(autouse=True)
def _unharmed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does: no stack in the log, neither of uvicorn nor of the loop."""
    yield
    # `records` are those of the teardown by now.
    said = caplog.get_records("call")
    bad = [record for record in said if record.exc_info or record.levelname == "ERROR"]
    assert not bad, bad
