"""Streams over HTTP: event streams as clients read them, pages, pages that are waited for."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent, aconnect_sse
from sqlalchemy import update
from starlette.responses import HTMLResponse

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.streams import ConnectionManager, connections, sse
from ferrule.streams.connections import Counts
from ferrule.streams.hub import READING, Hub
from ferrule.streams.log import STREAMS
from ferrule.streams.sse import prefers_events
from ferrule.streams.wire import TRANSPORT
from ferrule.testing import ActorClient, Actors
from tests.browser import browser
from tests.drills.client import Client, sign_in
from tests.server import Server
from tests.streams.boards import Boards, emit, eventually, streams, take_away, until
from tests.streams.peer import HOST, served

NOTHING = Counts(0, 0, 0)
SSE = {"accept": "text/event-stream"}
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@asynccontextmanager
async def _reading(
    port: int, who: ActorClient, channel: str, **headers: str
) -> AsyncIterator["Events"]:
    base = f"http://{HOST}:{port}/api/v1/streams/"
    headers = {"authorization": who.headers["authorization"], **headers}
    async with (
        httpx.AsyncClient(timeout=10) as client,
        aconnect_sse(client, "GET", base + channel, headers=headers) as source,
    ):
        events = Events(source)
        yield events


class Events:
    """What an event stream says, one after the other."""

    def __init__(self, source: EventSource) -> None:
        self.response = source.response
        self._events = source.aiter_sse()

    async def next(self) -> ServerSentEvent:
        async with asyncio.timeout(10):
            return await anext(self._events)

    async def data(self, t: str = "ev") -> Any:
        """The next message of a kind."""
        while (message := (await self.next()).json())["t"] != t:
            pass
        return message

    async def ended(self, *, within: float) -> list[Any]:
        """What it says until it ends."""
        said: list[Any] = []
        async with asyncio.timeout(within):
            async for event in self._events:
                said.append(event.json())
        return said


async def test_events_have_ids_and_data(
    app: Ferrule, actors: Actors, boards: Boards, port: int, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    await emit(app.kit, board, {"text": "one\ntwo\r\u2028ä"}, 2)
    async with _reading(port, ann, f"{board}?since=0") as events:
        headers = events.response.headers
        assert events.response.status_code == 200
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["x-accel-buffering"] == "no"
        assert headers["cache-control"] == "no-store"
        said = [await events.next() for _ in range(3)]
        assert [each.retry for each in said] == [1000, None, None]
        assert {each.event for each in said} == {"message"}
        first, second, live = (each.json() for each in said)
        epoch = live["epoch"]
        assert [each.id for each in said] == [f"{epoch}:1", f"{epoch}:2", f"{epoch}:2"]
        assert live == {"t": "live", "ch": board, "epoch": epoch, "offset": 2}
        assert first["data"] == {"text": "one\ntwo\r\u2028ä"}
        assert (second["t"], second["ch"], second["offset"], second["data"]) == ("ev", board, 2, 2)
        async with ann.socket(f"/api/v1/ws?ch={board}&since=1") as socket:
            assert await until(socket, "ev") == second
        await emit(app.kit, board, 3)
        assert (await events.next()).id == f"{epoch}:3"
        assert manager.counts().connections == 1
    await eventually(lambda: manager.counts() == NOTHING)
    assert board not in app.kit[Hub]._rooms


async def test_where_it_goes_on(app: Ferrule, actors: Actors, boards: Boards, port: int) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    await emit(app.kit, board, 1, 2, 3)
    async with app.kit[Database].write() as session:
        await session.execute(update(STREAMS).where(STREAMS.c.name == board).values(floor=1))
    async with _reading(port, ann, board) as events:
        live = (await events.next()).json()
        assert (live["t"], live["offset"]) == ("live", 3)
    epoch = live["epoch"]
    for query, last, expected in (
        ("", "2", ["ev", "live"]),
        ("", f"{epoch}:2", ["ev", "live"]),
        ("", f"{epoch}:1", ["ev", "ev", "live"]),
        ("", f"{epoch}:0", ["reset", "ev", "ev", "live"]),
        ("", "0", ["reset", "ev", "ev", "live"]),
        ("", "other:3", ["reset", "ev", "ev", "live"]),
        ("", "9", ["reset", "live"]),
        ("", "3", ["live"]),
        # Who comes back says in the header where they were; the address is that of the first time.
        ("?since=0", "2", ["ev", "live"]),
        ("?since=2", "", ["ev", "live"]),
    ):
        headers = {"last-event-id": last} if last else {}
        async with _reading(port, ann, board + query, **headers) as events:
            said = [await events.next() for _ in expected]
            assert [each.json()["t"] for each in said] == expected, (query, last)
            assert said[-1].id == f"{epoch}:3"


async def test_raw_lines_and_heartbeats(
    app: Ferrule, actors: Actors, boards: Boards, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.05)
    ann = await actors("ann")
    board = boards.new(ann)
    headers = {"authorization": ann.headers["authorization"], **SSE}
    url = f"http://{HOST}:{port}/api/v1/streams/{board}"
    async with httpx.AsyncClient() as client, client.stream("GET", url, headers=headers) as answer:
        got = b""
        async for chunk in answer.aiter_raw():
            got += chunk
            if got.endswith(b"\n:\n:\n"):
                break
        told = json.dumps(
            {"t": "live", "ch": board, "epoch": None, "offset": 0}, separators=(",", ":")
        )
        assert got == f"retry: 1000\nid: 0\ndata: {told}\n\n:\n:\n".encode()


@on_sqlite
async def test_who_gets_events_and_who_gets_a_page(
    actors: Actors, boards: Boards, port: int
) -> None:
    ann = await actors("ann")
    url = f"http://{HOST}:{port}/api/v1/streams/{boards.new(ann)}"
    both = "text/event-stream;q=0.5, application/json"
    async with httpx.AsyncClient(headers={"authorization": ann.headers["authorization"]}) as client:
        for accept, kind in ((None, "application/json"), (both, "application/json")):
            headers = {} if accept is None else {"accept": accept}
            assert (await client.get(url, headers=headers)).headers["content-type"] == kind
        for accept in ("Text/Event-Stream", "*/*;q=0.1, text/event-stream"):
            async with client.stream("GET", url, headers={"accept": accept}) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("accept", "events"),
    [
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("text/event-stream", True),
        ("text/event-stream, */*", True),
        ("application/json, text/event-stream", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream ; q=0.2 , application/json; q=0.1", True),
        ("text/event-stream;q=0.1, application/json;q=0.2", False),
        ("text/event-stream;q=x", False),
        ("text/event-stream;q=nan", False),
        ("text/event-stream; charset=utf-8", True),
        ("text/event-streams", False),
        (";;,,q=1", False),
    ],
)
def test_accept(accept: str, events: bool) -> None:
    assert prefers_events(accept) is events


# Pages


async def test_pages(app: Ferrule, actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    url = f"/api/v1/streams/{board}"
    empty = await ann.get(url)
    assert empty.json() == {"items": [], "epoch": None, "top": 0, "reset": False}
    await emit(app.kit, board, *range(1, 121))
    first = (await ann.get(url)).json()
    epoch = first["epoch"]
    assert [item["offset"] for item in first["items"]] == list(range(1, 51))
    assert first["items"][0].keys() == {"offset", "type", "at", "by", "data"}
    assert (first["top"], first["reset"]) == (120, False)
    for query, expected, reset in (
        ("since=100&limit=5", range(101, 106), False),
        (f"since={epoch}:119&limit=100", [120], False),
        ("since=120", [], False),
        ("since=121", [], True),
        ("since=other:119&limit=2", [1, 2], True),
        ("limit=100", range(1, 101), False),
        ("limit=1", [1], False),
        ("since=&limit=1", [1], False),
    ):
        page = (await ann.get(f"{url}?{query}")).json()
        assert [item["offset"] for item in page["items"]] == list(expected), query
        assert (page["reset"], page["top"], page["epoch"]) == (reset, 120, epoch), query
    async with app.kit[Database].write() as session:
        await session.execute(update(STREAMS).where(STREAMS.c.name == board).values(floor=110))
    for since, reset in (
        ("", False),
        ("0", True),
        (f"{epoch}:0", True),
        ("109", True),
        ("110", False),
    ):
        page = (await ann.get(f"{url}?since={since}&limit=1")).json()
        assert (page["items"][0]["offset"], page["reset"]) == (111, reset), since


@on_sqlite
async def test_a_page_does_not_wait_for_those_who_catch_up(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann = await actors("ann")
    for _ in range(READING):
        await app.kit[Hub]._reading.acquire()
    async with asyncio.timeout(2):
        answer = await ann.get(f"/api/v1/streams/{boards.new(ann)}")
    assert answer.status_code == 200


@on_sqlite
async def test_what_is_no_page(actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    url = f"/api/v1/streams/{boards.new(ann)}"
    for query in (
        *("since=x", "since=-1", "since=1.0", "since=9007199254740993", "since=" + "1" * 41),
        *("since=k-:1", "since=%F0%9F%98%80:1", "limit=0", "limit=101", "limit=-1", "limit=x"),
        *("wait=-1", "wait=31", "wait=nan", "wait=inf", "since=1&since=2", "sinc=1"),
    ):
        answer = await ann.get(f"{url}?{query}")
        refused = answer.status_code, answer.json().get("code")
        # Of one that is named twice the last counts.
        expected = (200, None) if query == "since=1&since=2" else (422, "validation_error")
        assert refused == expected, query
        if query.startswith("since=") and expected[0] == 422:
            answer = await ann.get(f"{url}?{query}", headers=SSE)
            assert answer.status_code == 422
    for last in ("x", "-1", "1" * 41, ":1"):
        answer = await ann.get(url, headers={**SSE, "last-event-id": last})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert (await ann.post(url)).status_code == 405


async def test_w5_streams_of_others_are_like_those_that_are_not_there(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board, mine = boards.new(bob), f"mine/{bob.user['id']}"
    await emit(app.kit, board, "secret")
    await emit(app.kit, mine, "secret")
    headers = {"x-request-id": "the-same-one"}
    for accept in ({}, SSE):
        bodies = set()
        for channel in (board, f"boards/{uuid4()}"):
            for query in ("", "?since=0&wait=1", "?since=x:9"):
                answer = await ann.get(
                    f"/api/v1/streams/{channel}{query}", headers={**headers, **accept}
                )
                bodies.add((answer.status_code, answer.content))
        assert len(bodies) == 1
        assert bodies.pop()[0] == 404
        bodies = set()
        for channel in (mine, f"mine/{uuid4()}", "mine/", "control/users", "nothing", "boards/x"):
            answer = await ann.get(f"/api/v1/streams/{channel}", headers={**headers, **accept})
            bodies.add((answer.status_code, answer.content))
        assert len(bodies) == 1
        assert bodies.pop()[0] == 404
    await emit(app.kit, f"mine/{ann.user['id']}", "hers")
    (item,) = (await ann.get("/api/v1/streams/mine")).json()["items"]
    assert item["data"] == "hers"


# Pages that are waited for


async def test_a_page_is_waited_for(
    app: Ferrule, actors: Actors, boards: Boards, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    url = f"/api/v1/streams/{board}"
    before = time.monotonic()
    page = (await ann.get(f"{url}?wait=0.1")).json()
    assert page["items"] == []
    assert time.monotonic() - before >= 0.1
    asking = [asyncio.create_task(ann.get(f"{url}?since=0&wait=20")) for _ in range(3)]
    await eventually(lambda: manager.counts().connections == 3)
    await emit(app.kit, board, 1, 2)
    for each in asking:
        answer = await each
        assert [item["offset"] for item in answer.json()["items"]] == [1, 2]
    # What is there is not waited for, and neither is what never was.
    for query in ("since=1&wait=20", "since=9&wait=20", "since=other:2&wait=20"):
        async with asyncio.timeout(5):
            page = (await ann.get(f"{url}?{query}")).json()
        assert (page["items"] != [], page["reset"]) == ("=9" not in query, "=1" not in query)
    assert manager.counts() == NOTHING
    await eventually(lambda: board not in app.kit[Hub]._rooms)


async def test_w5_who_waits_and_loses_it_is_not_told(
    app: Ferrule, actors: Actors, boards: Boards, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    asking = asyncio.create_task(ann.get(f"/api/v1/streams/{board}?wait=20"))
    await eventually(lambda: manager.counts().connections == 1)
    await take_away(app.kit, boards, board, ann)
    await emit(app.kit, board, "secret")
    async with asyncio.timeout(2):
        answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    asking = asyncio.create_task(ann.get("/api/v1/streams/mine?wait=20"))
    await eventually(lambda: manager.counts().connections == 1)
    assert (await ann.post("/api/v1/auth/logout")).status_code == 204
    async with asyncio.timeout(2):
        answer = await asking
    assert answer.status_code == 401
    assert manager.counts() == NOTHING


@streams(per_user=2)
@on_sqlite
async def test_w4_who_waits_is_counted(
    app: Ferrule, actors: Actors, boards: Boards, port: int, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    asking = asyncio.create_task(ann.get(f"/api/v1/streams/{board}?wait=20"))
    async with _reading(port, ann, board):
        await eventually(lambda: manager.counts().connections == 2)
        for headers in ({}, SSE):
            answer = await ann.get(f"/api/v1/streams/{board}?wait=1", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
        await emit(app.kit, board, 1)
        assert (await asking).status_code == 200
    await eventually(lambda: manager.counts() == NOTHING)
    manager.draining = True
    answer = await ann.get(f"/api/v1/streams/{board}", headers=SSE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# How they end


async def test_w3_what_is_lost_ends_it(
    app: Ferrule, actors: Actors, boards: Boards, port: int, manager: ConnectionManager
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with _reading(port, ann, board) as anns, _reading(port, bob, board) as bobs:
        mine = _reading(port, ann, "mine")
        async with mine as others:
            for events in (anns, bobs, others):
                await events.data("live")
            await take_away(app.kit, boards, board, ann)
            (gone,) = await anns.ended(within=1.5)
            assert (gone["t"], gone["code"], 0 <= gone["after_ms"] <= 1000) == ("gone", 4503, True)
            await emit(app.kit, board, "secret")
            assert (await bobs.data())["data"] == "secret"
            await emit(app.kit, f"mine/{ann.user['id']}", "hers")
            assert (await others.data())["data"] == "hers"
            assert (await ann.post("/api/v1/auth/logout")).status_code == 204
            ended = await others.ended(within=1.5)
            assert [message for message in ended if message["t"] == "ev"] == []
    await eventually(lambda: manager.counts() == NOTHING)


@on_sqlite
async def test_w3_a_token_that_expires_ends_it(
    actors: Actors,
    boards: Boards,
    port: int,
    token: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    manager: ConnectionManager,
) -> None:
    monkeypatch.setattr(connections, "TICK", 0.1)
    ann = await actors("ann")
    soon = {"authorization": f"Bearer {token(ann, ttl=2)}"}
    async with _reading(port, ann, boards.new(ann), **soon) as events:
        assert [message["t"] for message in await events.ended(within=4)] == [
            "live", "gone"
        ]  # fmt: skip
    assert manager.counts() == NOTHING


async def test_w5_taken_away_while_it_begins(
    app: Ferrule, actors: Actors, boards: Boards, port: int
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        boards.before_authorize = None
        asked.set()
        await go_on.wait()

    boards.before_authorize = wait
    asking = asyncio.create_task(ann.get(f"/api/v1/streams/{board}", headers=SSE))
    await asked.wait()
    await take_away(app.kit, boards, board, ann)
    await asyncio.sleep(0.05)
    go_on.set()
    async with asyncio.timeout(5):
        answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_those_who_are_sent_away_are_told(
    actors: Actors, boards: Boards, port: int, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    asking = asyncio.create_task(ann.get(f"/api/v1/streams/{board}?wait=20"))
    async with _reading(port, ann, board) as events:
        await events.data("live")
        await eventually(lambda: manager.counts().connections == 2)
        await manager.drain(0)
        (gone,) = await events.ended(within=2)
        assert (gone["t"], gone["code"], 0 <= gone["after_ms"] <= 1000) == ("gone", 4001, True)
    assert (await asking).json()["items"] == []
    await eventually(lambda: manager.counts() == NOTHING)


class Raw:
    """A client that asks for an event stream and reads what it wants."""

    def __init__(
        self, port: int, who: ActorClient, channel: str, *, accept: str = SSE["accept"]
    ) -> None:
        self._port = port
        self._head = (
            f"GET /api/v1/streams/{channel} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {accept}\r\n"
            f"Authorization: {who.headers['authorization']}\r\n\r\n"
        )

    async def __aenter__(self) -> "Raw":
        connection = socket.socket()
        # Small, so that who does not read is noticed soon.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (HOST, self._port))
        self.reader, self.writer = await asyncio.open_connection(sock=connection, limit=2048)
        self.writer.write(self._head.encode())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    def abort(self) -> None:
        self.writer.transport.abort()

    async def until(self, text: bytes) -> bytes:
        got = b""
        async with asyncio.timeout(10):
            while text not in got:
                got += await self.reader.read(65_536)
        return got


async def test_w4_a_slow_client_is_bounded_and_misses_nothing(
    app: Ferrule,
    actors: Actors,
    boards: Boards,
    port: int,
    manager: ConnectionManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "MAX_BYTES", 50_000)
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with Raw(port, ann, board) as slow, _reading(port, bob, board) as bobs:
        await slow.until(b'"live"')
        await bobs.data("live")
        for number in range(40):
            await emit(app.kit, board, *[f"{number}" + "x" * 20_000] * 5)
        (stream,) = (
            peer for peer in manager._peers.values() if str(peer.actor.id) == ann.user["id"]
        )
        assert isinstance(stream, sse.EventStream)
        # The kernel may have taken all of it.
        assert stream._bytes <= sse.MAX_BYTES + 25_000
        offsets = [(await bobs.data())["offset"] for _ in range(200)]
        assert offsets == list(range(1, 201))
        got = (await slow.until(b'"offset":200,')).decode(errors="replace")
        ids = [int(part.partition("\n")[0].rpartition(":")[2]) for part in got.split("id: ")[1:]]
        events = [id for id, part in zip(ids, got.split("id: ")[1:], strict=True) if '"ev"' in part]
        assert events == list(range(1, 201))
    await eventually(lambda: manager.counts() == NOTHING)


@on_sqlite
async def test_a_client_that_is_gone_is_counted_out(
    app: Ferrule, actors: Actors, boards: Boards, port: int, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    for read in (False, True):
        for _ in range(5):
            async with Raw(port, ann, board) as client:
                if read:
                    await client.until(b'"live"')
                client.abort()
    # Also in the middle of what it does not take.
    async with Raw(port, ann, board) as client:
        await client.until(b'"live"')
        for _ in range(200):
            await emit(app.kit, board, *["x" * 40_000] * 2)
        client.abort()
    await eventually(lambda: manager.counts() == NOTHING)
    await eventually(lambda: board not in app.kit[Hub]._rooms)


@on_sqlite
async def test_w3_who_reads_on_from_the_past_ends_too(
    app: Ferrule, actors: Actors, boards: Boards, port: int
) -> None:
    """A replay that is under way does not go on behind the end of a login."""
    ann = await actors("ann")
    board = boards.new(ann)
    for _ in range(20):
        await emit(app.kit, board, *["x" * 40_000] * 50)
    async with Raw(port, ann, f"{board}?since=0") as client:
        await client.until(b'"offset":1,')
        assert (await ann.post("/api/v1/auth/logout")).status_code == 204
        await asyncio.sleep(0.2)
        got = b""
        async with asyncio.timeout(10):
            while chunk := await client.reader.read(65_536):
                got += chunk
                if got.endswith(b"0\r\n\r\n"):
                    break
        # 40 MB are kept; what was on its way is less.
        assert len(got) < 15_000_000
        assert b'"offset":1000,' not in got


@on_sqlite
async def test_a_reader_that_fails_ends_it(
    app: Ferrule, actors: Actors, boards: Boards, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    async with _reading(port, ann, board) as events:
        await events.data("live")

        def fail(*_: Any) -> bool:
            raise RuntimeError("a fault")

        monkeypatch.setattr(sse.EventStream, "deliver", fail)
        monkeypatch.setattr(sse.EventStream, "deliver", fail)
        await emit(app.kit, board, 1)
        assert await events.ended(within=5) == []


LISTEN = """
(() => {{
  window.said = [];
  window.events = new EventSource("{base}/streams/memberships?ticket={ticket}");
  events.onmessage = (event) => said.push(["sse", event.lastEventId, JSON.parse(event.data)]);
  events.onerror = () => said.push(["sse", events.readyState, {{t: "error"}}]);
  window.socket = new WebSocket("{ws}/ws?ch=memberships&ticket={other}");
  socket.onmessage = (event) => said.push(["ws", "", JSON.parse(event.data)]);
  socket.onclose = (event) => said.push(["ws", event.code, {{t: "close"}}]);
}})()
"""


@pytest.mark.external
async def test_browsers_listen(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    """EventSource and WebSocket of another origin, which is listed, with a ticket each."""
    async with served(HTMLResponse()) as pages, browser(tmp_path) as tab:
        origin = f"http://{HOST}:{pages.port}"  # type: ignore[attr-defined]
        server = make_server(CORS_ORIGINS=origin)
        server.start()
        base = f"{HOST}:{server.port}/api/v1"
        async with Client(server.port, await sign_in(server.port)) as ann:
            tickets = [(await ann.request("POST", "/ws/ticket")).json()["ticket"] for _ in "12"]
            await tab.open(origin)
            await tab.until("document.readyState === 'complete'")
            addresses = {"base": f"http://{base}", "ws": f"ws://{base}"}
            await tab.run(LISTEN.format(**addresses, ticket=tickets[0], other=tickets[1]))
            await tab.until("said.filter(([, , said]) => said.t === 'live').length === 2")
            await ann.request("POST", "/rooms", {"name": "Kitchen"})
            await tab.until("said.filter(([, , said]) => said.t === 'ev').length === 2")
            told = json.loads(await tab.run("JSON.stringify(said)"))
            (sse_id, from_sse), (_, from_ws) = sorted(
                ([id, event] for _, id, event in told if event["t"] == "ev"),
                key=lambda each: each[0],
                reverse=True,
            )
            assert from_sse == from_ws
            assert sse_id.endswith(":1")
            assert (await ann.request("POST", "/auth/logout")).status == 204
            await tab.until("said.some(([how, code]) => how === 'ws' && code === 4502)")
            # It asks once more, with a ticket that is used, and gives up.
            await tab.until("said.some(([how, state]) => how === 'sse' && state === 2)")


@pytest.mark.parametrize("stuck", ["event", "comment"])
@pytest.mark.parametrize("abortable", [True, False])
async def test_w4_who_takes_nothing_is_cut_off(
    app: Ferrule,
    actors: Actors,
    boards: Boards,
    manager: ConnectionManager,
    monkeypatch: pytest.MonkeyPatch,
    stuck: str,
    abortable: bool,
) -> None:
    monkeypatch.setattr(connections, "TICK", 0.05)
    monkeypatch.setattr(sse, "ABORT", 0.05)
    monkeypatch.setattr(sse, "HEARTBEAT", 0.05)
    settings = app.settings.streams.model_copy(update={"stalled": 0.1})
    app.kit.provide(settings)
    ann = await actors("ann")
    board = boards.new(ann)
    await emit(app.kit, board, "never read")
    aborted = asyncio.Event()
    closed = SimpleNamespace(fileno=lambda: -1)
    transport = SimpleNamespace(
        abort=aborted.set, get_write_buffer_size=lambda: 9, get_extra_info=lambda name: closed
    )
    scope = {
        "extensions": {TRANSPORT: transport} if abortable else {},
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": f"/api/v1/streams/{board}", "raw_path": b"", "root_path": "",
        "query_string": b"since=0", "client": ("127.0.0.1", 1), "server": ("testserver", 80),
        "headers": [
            (b"host", b"testserver"), (b"accept", b"text/event-stream"),
            (b"authorization", ann.headers["authorization"].encode()),
        ],
    }  # fmt: skip
    asked, sent = asyncio.Event(), 0

    async def receive() -> Any:
        if asked.is_set():
            await aborted.wait()
            return {"type": "http.disconnect"}
        asked.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal sent
        sent += 1
        # The head, the retry, the events.
        if sent > (2 if stuck == "event" else 3):
            await aborted.wait()

    await asyncio.wait_for(app(scope, receive, send), 5)
    assert aborted.is_set() == abortable
    assert manager.counts() == NOTHING


@on_sqlite
async def test_w4_what_a_client_does_not_take_is_aborted_when_its_right_ends(
    app: Ferrule, actors: Actors, boards: Boards, manager: ConnectionManager
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with served(app) as server:
        state = server.server_state  # type: ignore[attr-defined]
        async with Raw(server.port, ann, board) as slow:  # type: ignore[attr-defined]
            await slow.until(b'"live"')
            # More than the kernel takes, and nothing is being sent when the right ends.
            for _ in range(200):
                await emit(app.kit, board, "x" * 40_000)
            await take_away(app.kit, boards, board, ann)
            await eventually(lambda: not state.connections)
    assert manager.counts() == NOTHING


@on_sqlite
async def test_w4_who_waits_no_more_is_not_counted(
    actors: Actors, boards: Boards, port: int, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    async with Raw(port, ann, f"{board}?wait=20", accept="application/json"):
        await eventually(lambda: manager.counts().connections == 1)
    await eventually(lambda: manager.counts() == NOTHING)


async def test_which_place_is_no_place_is_said(actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    for query, headers, loc in (
        ("?since=x", SSE, ["query", "since"]),
        ("", {**SSE, "last-event-id": "x"}, ["header", "last-event-id"]),
    ):
        refused = await ann.get(f"/api/v1/streams/{board}{query}", headers=headers)
        problem = refused.json()
        assert (refused.status_code, problem["title"]) == (422, "Unprocessable Content")
        assert [error["loc"] for error in problem["errors"]] == [loc]
