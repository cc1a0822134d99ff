"""WebSockets at the edge: who may connect, how it is refused, what is logged and counted."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, WebSocket

from ferrule import Anyone, Ferrule, Module, SignedIn, create_app
from ferrule.errors import TooManyRequests
from ferrule.http.sockets import Origins
from ferrule.observability.health import Health
from ferrule.observability.metrics import Metrics
from tests.server import CLI, Server
from tests.streams.peer import Peer

router = APIRouter()


@router.websocket("/echo/{name}")
async def echo(websocket: WebSocket, name: str, actor: Anyone, times: int = 1) -> None:
    await websocket.accept()
    while True:
        text = await websocket.receive_text()
        await websocket.send_text(text * times)


@router.websocket("/mine")
async def mine(websocket: WebSocket, actor: SignedIn) -> None:
    await websocket.accept()


@router.websocket("/busy")
async def busy(websocket: WebSocket, actor: Anyone) -> None:
    raise TooManyRequests("Later.", headers={"Retry-After": "7"})


@router.websocket("/closing")
async def closing(websocket: WebSocket, actor: Anyone) -> None:
    await websocket.close(1008)


@router.websocket("/broken")
async def broken(websocket: WebSocket, actor: Anyone, late: bool = False) -> None:
    if late:
        await websocket.accept()
    raise ZeroDivisionError("with a secret inside: hunter2")


@router.websocket("/late")
async def late(websocket: WebSocket, actor: Anyone) -> None:
    await websocket.accept()
    raise TooManyRequests("Later.")


@router.websocket("/silent")
async def silent(websocket: WebSocket, actor: Anyone) -> None:
    return


@router.websocket("/short")
async def short(websocket: WebSocket, actor: Anyone, code: int | None = None) -> None:
    await websocket.accept(headers=[(b"x-mine", b"1")])
    if code:
        await websocket.close(code)


class Opened:
    """What a server was told to do with a handshake, and what was logged."""

    def __init__(self, sent: Sequence[Any], line: Any) -> None:
        self.sent = [message["type"].removeprefix("websocket.") for message in sent]
        first = next(iter(sent), {})
        self.status = 101 if self.sent[:1] == ["accept"] else first.get("status", 0)
        self.headers = {name.decode(): value.decode() for name, value in first.get("headers", ())}
        self.body = b"".join(message.get("body", b"") for message in sent)
        codes = [message["code"] for message in sent if message["type"] == "websocket.close"]
        self.code = codes[0] if codes else None
        self.line = line

    @property
    def problem(self) -> tuple[int, str]:
        problem = json.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["x-request-id"] == problem["request_id"] == self.line["request_id"]
        assert problem["status"] == self.status == self.line["status"]
        return self.status, problem["code"]


Open = Callable[..., Any]


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[Module(name="probes", router=router)])


@pytest.fixture
def open_socket(application: Ferrule, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a WebSocket of the application as a server would, and sends it these texts."""
    lines: list[Any] = []
    monkeypatch.setattr("ferrule.http.edge.log_socket", lambda **line: lines.append(line))

    async def open(
        path: str, *texts: str, origin: str | None = None, left: bool = False, **scope: Any
    ) -> Opened:
        path, _, query = path.partition("?")
        headers = [(b"host", b"testserver")]
        headers += [] if origin is None else [(b"origin", origin.encode())]
        messages = [
            {"type": "websocket.connect"},
            *({"type": "websocket.receive", "text": text} for text in texts),
            {"type": "websocket.disconnect", "code": 1001},
        ]
        received, sent = iter(messages), list[Any]()

        async def receive() -> Any:
            return next(received)

        async def send(message: Any) -> None:
            if left:
                raise OSError
            sent.append(message)

        lines.clear()
        async with asyncio.timeout(5):
            await application(
                {
                    "type": "websocket",
                    "asgi": {"version": "3.0", "spec_version": "2.4"},
                    "http_version": "1.1",
                    "scheme": "ws",
                    "path": f"/api/v1{path}",
                    "raw_path": f"/api/v1{path}".encode(),
                    "query_string": query.encode(),
                    "root_path": "",
                    "headers": headers,
                    "subprotocols": [],
                    "client": ("203.0.113.9", 1),
                    "server": ("testserver", 80),
                    "extensions": {"websocket.http.response": {}},
                    **scope,
                },
                receive,
                send,
            )
        (line,) = lines
        return Opened(sent, line)

    return open


async def test_a_connection_leaves_one_line(open_socket: Open, application: Ferrule) -> None:
    opened = await open_socket("/echo/ann?times=2&ticket=canary", "a", "b")
    assert opened.sent == ["accept", "send", "send"]
    line = opened.line
    assert opened.headers["x-request-id"] == line["request_id"]
    assert line.pop("seconds") >= 0
    del line["request_id"]
    assert line == {
        "route": "/api/v1/echo/{name}",
        "status": 101,
        "code": 1001,
        "actor": "anonymous",
        "client": "203.0.113.9",
        "failed": False,
    }


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/mine", 401, "unauthenticated"),
        ("/busy", 429, "too_many_requests"),
        ("/closing", 403, "forbidden"),
        ("/nowhere", 404, "not_found"),
        ("/echo/x?times=many", 422, "validation_error"),
        ("/broken", 500, "internal_error"),
        ("/silent", 500, "internal_error"),
        ("/echo/x?a=%00", 400, "bad_address"),
    ],
)
async def test_refusals_before_accept_are_problems(
    open_socket: Open, path: str, status: int, code: str
) -> None:
    opened = await open_socket(path)
    assert opened.problem == (status, code)
    assert opened.sent == ["http.response.start", "http.response.body"]
    assert opened.headers["x-content-type-options"] == "nosniff"
    assert opened.headers.get("retry-after") == ("7" if status == 429 else None)
    assert b"many" not in opened.body.replace(b"too_many_requests", b"").replace(b"Too Many", b"")
    assert opened.line["code"] is None
    plain = await open_socket(path, extensions={})
    assert (plain.sent, plain.code, plain.line["status"]) == (["close"], 1008, 403)


@pytest.mark.parametrize("path", ["/echo/ann", "/busy", "/mine", "/silent", "/nowhere"])
async def test_who_left_before_the_answer_is_no_defect(open_socket: Open, path: str) -> None:
    opened = await open_socket(path, left=True)
    assert (opened.sent, opened.line["status"], opened.line["code"]) == ([], 0, 1006)
    # But that it said nothing is one.
    assert opened.line["failed"] == (path == "/silent")


@pytest.mark.parametrize(
    ("path", "code"),
    [("/late", 1008), ("/broken?late=true", 1011), ("/short", 1000), ("/short?code=4000", 4000)],
)
async def test_the_end_after_accept_is_a_close_frame(
    open_socket: Open, path: str, code: int
) -> None:
    opened = await open_socket(path)
    assert opened.sent == ["accept", "close"]
    assert (opened.code, opened.line["status"], opened.line["code"]) == (code, 101, code)


async def test_a_wire_that_closed_is_not_closed_again(open_socket: Open) -> None:
    opened = await open_socket("/short", **{"ferrule.closed": 4501})
    assert opened.sent == ["accept"]
    assert opened.line["code"] == 4501


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://testserver", 101),
        ("http://testserver:80", 101),
        ("http://TestServer", 101),
        ("https://testserver", 403),
        ("http://testserver:8080", 403),
        ("http://testserver.evil.example", 403),
        ("http://evil.example", 403),
        ("http://testserver@evil.example", 403),
        ("testserver", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_w1_pages_of_other_origins_are_refused(
    open_socket: Open, origin: str | None, status: int
) -> None:
    opened = await open_socket("/short", origin=origin)
    assert opened.status == status
    if status == 403:
        assert opened.problem == (403, "bad_origin")


async def test_w1_two_origins_are_refused(open_socket: Open) -> None:
    headers = [(b"host", b"testserver"), *[(b"origin", b"http://testserver")] * 2]
    assert (await open_socket("/short", headers=headers)).problem == (403, "bad_origin")


@pytest.mark.parametrize(
    ("listed", "origin", "allowed"),
    [
        (["https://app.example/path"], "https://app.example", True),
        (["https://app.example:443"], "https://app.example", True),
        (["https://App.Example"], "https://app.example", True),
        (["https://app.example:8443"], "https://app.example", False),
        (["http://[::1]:3000"], "http://[::1]:3000", True),
        (["https://app.example"], "null", False),
        (["null"], "null", True),
        (["*"], "https://evil.example", True),
        (["https://app.example"], "https://app.example:x", False),
        (["https://app.example:x"], "https://app.example:y", False),
        ([], "https://testserver", True),
        ([], "http://testserver", False),
    ],
)
def test_w1_listed_origins_may_connect(listed: list[str], origin: str, allowed: bool) -> None:
    headers = [(b"host", b"testserver"), (b"origin", origin.encode())]
    assert Origins(listed).allow({"scheme": "wss", "headers": headers}) is allowed


async def test_nobody_is_let_in_at_the_end(open_socket: Open, application: Ferrule) -> None:
    health = Health()
    health.draining = True
    application.kit.provide(health)
    opened = await open_socket("/short")
    assert opened.problem == (503, "draining")
    assert opened.headers["retry-after"] == "1"


async def test_handshakes_are_counted(open_socket: Open, application: Ferrule) -> None:
    await open_socket("/echo/ann")
    await open_socket("/mine")
    await open_socket("/short", origin="null")
    text = application.kit[Metrics].render(None)[0].decode()
    for route, status in (("/api/v1/echo/{name}", 101), ("/api/v1/mine", 401), ("unmatched", 403)):
        assert f'{{method="GET",route="{route}",status="{status}"}} 1.0' in text
    assert "http_requests_in_flight 0.0" in text


APP = """
from fastapi import APIRouter, WebSocket
from ferrule import Anyone, Module, create_app

router = APIRouter()

@router.websocket("/short")
async def short(websocket: WebSocket, actor: Anyone) -> None:
    await websocket.accept()

app = create_app(modules=[Module(name="probes", router=router)])
"""


@pytest.mark.parametrize("served", ["ferrule", "uvicorn"])
async def test_w2_no_query_is_in_the_log(
    make_server: Callable[..., Server], tmp_path: Path, served: str
) -> None:
    (tmp_path / "live.py").write_text(APP)
    server = make_server(APP="live:app", LOG_LEVEL="debug", CORS_ORIGINS="http://other.example")
    command = (*CLI, "serve", "--port", "{port}")
    if served == "uvicorn":
        command = (CLI[0], "-m", "uvicorn", "live:app", "--port", "{port}")
    server.command = [part.format(port=server.port) for part in command]
    server.start()
    for path, origin, status in (
        ("/api/v1/short", f"http://127.0.0.1:{server.port}", 101),
        ("/api/v1/short", "http://evil.example", 403),
        ("/api/v1/nowhere", "http://127.0.0.1:1", 403),
        ("/nowhere", None, 404),
    ):
        headers = {"Origin": origin} if origin else {}
        async with Peer(server.port, f"{path}?ticket=canary", **headers) as peer:
            assert peer.status == status
            assert len(peer.headers["x-request-id"]) == 32
            if status == 101:
                assert await peer.closed() == (1000, "")
    server.stop()
    output = server.output()
    assert "canary" not in output
    assert "Traceback" not in output
    lines = [json.loads(line) for line in output.splitlines() if '"websocket"' in line]
    assert [(line["status"], line["code"]) for line in lines] == [
        *((101, 1000), (403, None), (403, None), (404, None))
    ]
    assert not [line for line in output.splitlines() if "WebSocket" in line or "handshake" in line]
