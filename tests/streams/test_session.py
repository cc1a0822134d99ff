"""The protocol of `/ws`, said by clients."""

import asyncio
from typing import Any

import pytest

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.testing import Actors, Disconnected, Refused, TestSocket


async def _notify(ann: Any, title: str) -> None:
    data = {"user_id": ann.user["id"], "title": title, "body": ""}
    assert (await ann.post("/api/v1/notify", json=data)).status_code == 202


async def test_what_is_kept_comes_first_then_what_happens(actors: Actors) -> None:
    ann = await actors("ann")
    for title in ("one", "two"):
        await _notify(ann, title)
    async with ann.socket() as socket:
        hello = await socket.receive()
        assert (hello["t"], hello["max"]) == ("hello", 65536)
        await socket.send({"id": 7, "t": "sub", "ch": "notifications", "since": "0"})
        ok = await socket.receive()
        assert (ok["t"], ok["id"], ok["ch"], ok["offset"]) == ("ok", 7, "notifications", 2)
        events = [await socket.receive() for _ in range(2)]
        live = await socket.receive()
        assert live == {
            "t": "live", "ch": "notifications", "epoch": ok["epoch"], "offset": 2
        }  # fmt: skip
        await _notify(ann, "three")
        events.append(await socket.receive())
        assert [event["offset"] for event in events] == [1, 2, 3]
        assert [event["data"]["title"] for event in events] == ["one", "two", "three"]
        assert {event["type"] for event in events} == {"created"}
        assert events[2]["by"] == ann.user["id"]
    async with ann.socket(f"/api/v1/ws?ch=notifications&since={ok['epoch']}:2") as socket:
        said = [await socket.receive() for _ in range(4)]
        assert [message["t"] for message in said] == ["hello", "ok", "ev", "live"]
        assert said[2] == events[2]
