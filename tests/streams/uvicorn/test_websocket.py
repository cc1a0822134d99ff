"""The protocol of WebSockets that `ferrule serve` gives to uvicorn: what uvicorn does, and not."""

import asyncio
import gc
import json
from typing import Any, cast

import pytest
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected

from ferrule.streams.audience import Audience
from ferrule.streams.uvicorn import websocket as ours
from ferrule.streams.wire import Message
from tests.streams.peer import CLOSE, CONT, PING, PONG, TEXT, Peer, frame, served, soon
from tests.streams.uvicorn.applications import ABORT, LARGE, SMALL, Live, on_both_loops


@on_both_loops
async def test_frames_and_asgi_messages_keep_their_order() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        for number in range(0, 9, 3):
            app.wire.write(Message(f"{number}".encode()))
            await app.send({"type": "websocket.send", "text": f"{number + 1}"})
            app.wire.write(Message(f"{number + 2}".encode()))
        assert [await peer.receive_text() for _ in range(9)] == [f"{n}" for n in range(9)]
        peer.send_text("hello")
        await soon(lambda: app.texts == ["hello"])


@on_both_loops
async def test_the_peer_is_heard_of() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        before = app.wire.heard_at
        assert app.wire.pings
        app.wire.ping()
        assert await peer.receive() == (PING, b"")
        await asyncio.sleep(0.02)
        assert app.wire.heard_at == before
        peer.send(PONG)
        await soon(lambda: app.wire.heard_at > before)
        peer.send(PING, b"are you there")
        assert await peer.receive() == (PONG, b"are you there")
        assert app.received == []


@on_both_loops
async def test_closing_tells_both_sides() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        protocol = app.protocol
        app.wire.write(Message(b"last"))
        app.wire.close(4001, "draining" + "g" * 200)
        app.wire.close(4002)
        assert not app.wire.flowing
        assert await peer.receive_text() == "last"
        await soon(lambda: app.ended)
        # The application has not been told by whom it was closed: this is no mistake of its.
        await app.send({"type": "websocket.close", "code": 1000})
        with pytest.raises(ClientDisconnected):
            await app.send({"type": "websocket.send", "text": "too late"})
        peer.send_text("too late")
        code, reason = await peer.closed() or (0, "")
        assert code == 4001
        assert reason == "draining" + "g" * 115
        await app.over(server)
        assert (app.code, app.texts) == (4001, [])
        assert protocol.close_timer is None
        app.wire.close(4001)
        app.wire.abort()
        app.wire.ping()


@on_both_loops
async def test_a_peer_that_closes_is_answered() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        peer.send(CLOSE, (3000).to_bytes(2, "big") + b"enough")
        assert await peer.closed() == (3000, "enough")
        await app.over(server)
        assert app.code == 3000


@on_both_loops
async def test_a_peer_that_vanishes_is_noticed() -> None:
    app = Live()
    async with served(app) as server:
        async with Peer(server.port):
            await soon(lambda: app.wire.flowing)
        await app.over(server)
        assert app.code in (1005, 1006)


@pytest.mark.parametrize("how", ["wire", "uvicorn", "peer", "half"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_w4_who_does_not_read_is_aborted(how: str, loop: Any) -> None:
    # uvicorn closes whom its own pings do not reach, and then waits for them to read.
    pings = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.05} if how == "uvicorn" else {}

    async def scenario() -> None:
        app = Live()
        async with served(app, **pings) as server, Peer(server.port) as peer:
            await soon(lambda: app.wire)
            await app.fill()
            began = asyncio.get_running_loop().time()
            if how == "wire":
                app.wire.close(4008)
            elif how == "peer":
                peer.send(CLOSE, b"\x03\xe8")
            elif how == "half":
                peer.writer.write_eof()
            assert app.wire.transport.get_write_buffer_size()
            await app.over(server)
            assert asyncio.get_running_loop().time() - began < ABORT + 1

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@on_both_loops
async def test_w4_who_says_that_nothing_more_comes_is_gone() -> None:
    app = Live()
    audience = Audience[str]()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        audience.add("it", app.wire)
        # Of more than this the transport would say that it is too much.
        while app.wire.transport.get_write_buffer_size() < 10_000:
            app.wire.write(SMALL)
            await asyncio.sleep(0)
        assert app.wire.flowing
        peer.writer.write_eof()
        await soon(lambda: app.protocol.transport.is_closing())
        assert audience.send(SMALL, lambda _: False) == ["it"]
        app.wire.close(4503)
        # It would read for as long as anything comes.
        await app.over(server)


@on_both_loops
async def test_a_server_that_stops_refuses_a_handshake_that_is_under_way() -> None:
    class Slow(Live):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.answering = True
            await asyncio.sleep(0.2)
            await super().__call__(scope, receive, send)

    app = Slow()
    async with served(app) as server:
        opening = asyncio.create_task(Peer(cast(Any, server).port).__aenter__())
        await soon(lambda: hasattr(app, "answering"))
        for connection in server.server_state.connections:
            cast(Any, connection).shutdown()
        peer = await opening
        assert (peer.status, peer.headers["retry-after"]) == (503, "1")
        assert peer.headers["content-type"] == "application/problem+json"
        assert json.loads(peer.body)["code"] == "draining"
        await peer.__aexit__(None, None, None)
        await soon(lambda: not server.server_state.tasks)


@on_both_loops
async def test_it_flows_again_when_the_peer_reads() -> None:
    app = Live()
    flowed: list[float] = []
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        app.wire.on_flowing = lambda: flowed.append(app.wire.transport.get_write_buffer_size())
        await app.fill()
        assert app.wire.transport.get_write_buffer_size() > 65_536
        app.wire.ping()
        sending = asyncio.create_task(app.send({"type": "websocket.send", "text": "after"}))
        await asyncio.sleep(0.05)
        assert not flowed
        assert not sending.done()
        last = ""
        while last != "after":
            last = await peer.receive_text()
        assert flowed
        assert app.wire.flowing
        await sending


@on_both_loops
async def test_who_is_written_to_directly_is_so_while_it_flows() -> None:
    app = Live()
    audience = Audience[str]()

    def direct() -> bool:
        return not audience.send(Message(b"tell"), lambda _: False)

    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire)
        audience.add("it", app.wire)
        await soon(direct)
        assert await peer.receive_text() == "tell"
        while direct():
            app.wire.write(LARGE)
            await asyncio.sleep(0)
        reading = asyncio.create_task(peer.closed())
        await soon(direct)
        app.wire.close(4008)
        assert not direct()
        await reading
        await app.over(server)
        assert not direct()


@on_both_loops
async def test_w4_who_pings_and_does_not_read_gets_one_answer() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        await app.fill()
        held = app.wire.transport.get_write_buffer_size()
        for number in range(1000):
            peer.send(PING, f"{number:0100}".encode())
        await peer.writer.drain()
        await soon(lambda: app.protocol._pong.endswith(b"0999"))
        assert app.wire.transport.get_write_buffer_size() == held
        answers = []
        while not answers:
            received = await peer.receive()
            assert received is not None
            answers += [received[1]] if received[0] == PONG else []
        assert answers == [f"{999:0100}".encode()]


@on_both_loops
async def test_w4_a_message_over_the_size_is_refused_at_its_head() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        peer.send(TEXT, length=65_537)
        # What follows must not reset the connection before the reason is read.
        peer.writer.write(b"x" * 20_000)
        code, _ = await peer.closed() or (0, "")
        assert code == 1009
        with pytest.raises(ClientDisconnected):
            await app.send({"type": "websocket.send", "text": "too late"})
        peer.writer.close()
        await app.over(server)
        assert (app.code, app.texts) == (1009, [])


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("sent", "code"),
    [(b"\x83\x80" + bytes(4), 1002), (b"\x81\x01x", 1002), (frame(TEXT, b"\xff"), 1007)],
    ids=["unknown opcode", "unmasked", "no UTF-8"],
)
def test_what_is_no_websocket_is_refused(loop: Any, sent: bytes, code: int) -> None:
    async def scenario() -> None:
        app = Live()
        async with served(app) as server, Peer(server.port) as peer:
            await soon(lambda: app.wire.flowing)
            peer.writer.write(sent + frame(PING) * 3 + frame(TEXT, b"more"))
            told = await peer.closed()
            assert told
            assert told[0] == code
            peer.writer.close()
            await app.over(server)
            assert app.texts == []

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@on_both_loops
async def test_w4_messages_that_nobody_reads_stay_bytes() -> None:
    app = Live(reads=False)
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        peer.writer.write(b"".join(frame(TEXT, b"%d" % n) for n in range(10_000)))
        await soon(lambda: app.protocol.read_paused)
        await asyncio.sleep(0.05)
        assert len(app.protocol.queue._messages) < ours.SLICE / 6  # type: ignore[attr-defined]
        app.reading.set()
        await soon(lambda: len(app.texts) == 10_000)
        assert app.texts == [f"{n}" for n in range(10_000)]


@on_both_loops
async def test_a_close_behind_unread_messages_is_seen() -> None:
    app = Live(reads=False)
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        peer.writer.write(b"".join(frame(TEXT, b"%d" % n) for n in range(3000)))
        peer.send(CLOSE, b"\x03\xe8")
        await soon(lambda: app.protocol._unread)
        app.wire.close(4001)
        assert await peer.closed() == (4001, "")
        app.reading.set()
        await app.over(server)


@on_both_loops
async def test_w4_a_message_of_countless_parts_stays_small() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        peer.send(TEXT, b"a", fin=False)
        for _ in range(1000):
            peer.send(CONT, b"", fin=False)
        peer.send(PING)
        assert await peer.receive() == (PONG, b"")
        assert len(app.protocol.frames) <= ours.FRAGMENTS
        peer.send(CONT, b"b")
        await soon(lambda: app.texts == ["ab"])


@on_both_loops
async def test_w4_much_at_once_is_read_in_turns() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        read = frame(PING, b"x" * 125) * 500 + frame(TEXT, b"first")
        peer.send_text("second")
        app.protocol.data_received(read)
        turns = 0
        while not app.texts:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= len(read) // ours.SLICE
        await soon(lambda: app.texts == ["first", "second"])
        app.protocol.data_received(read)
        app.wire.abort()
        await app.over(server)
        assert app.texts == ["first", "second"]


@on_both_loops
async def test_a_request_of_many_bytes_is_read_in_turns() -> None:
    app = Live()
    headers = {f"X_{number}": "x" * 4000 for number in range(4)}
    async with served(app) as server, Peer(server.port, **headers) as peer:
        await soon(lambda: app.wire and app.wire.flowing)
        peer.send_text("hello")
        await soon(lambda: app.texts == ["hello"])


@on_both_loops
async def test_a_request_with_a_line_that_is_too_long_is_answered() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port, X_Big="x" * 12_000) as peer:
        assert peer.status == 431
        assert await peer.reader.read() == b""
        await soon(lambda: not server.server_state.connections)
    assert app.wire is None


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    "flood",
    [frame(PING), frame(PONG), frame(CONT, b"x" * 8, fin=False)],
    ids=["pings", "pongs", "parts"],
)
def test_w4_a_flood_is_refused(loop: Any, flood: bytes) -> None:
    async def scenario() -> None:
        app = Live()
        async with served(app) as server, Peer(server.port) as peer:
            await soon(lambda: app.wire.flowing)
            peer.send(TEXT, fin=False)
            peer.writer.write(flood * 4000)
            told = await peer.closed()
            assert told == (4504, "Too many frames.")
            peer.writer.close()
            await app.over(server)
            assert (app.code, app.texts) == (4504, [])

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@on_both_loops
async def test_many_frames_in_time_are_no_flood() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port) as peer:
        await soon(lambda: app.wire.flowing)
        for number in (ours.FRAMES - 24, 50):
            peer.writer.write(frame(PING) * (number - 1) + frame(PING, b"last"))
            while await peer.receive() != (PONG, b"last"):
                pass
            await asyncio.sleep(50 / ours.FRAMES_RATE)
        assert app.wire.flowing


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(("size", "messages"), [(64, 1), (1024, 30), (4096, 100)])
def test_large_messages_in_parts_are_no_flood(loop: Any, size: int, messages: int) -> None:
    async def scenario() -> None:
        app = Live()
        async with served(app) as server, Peer(server.port) as peer:
            await soon(lambda: app.wire.flowing)
            parts = 65_536 // size
            for _ in range(messages):
                peer.send(TEXT, b"x" * size, fin=False)
                for number in range(2, parts + 1):
                    peer.send(CONT, b"x" * size, fin=number == parts)
                await peer.writer.drain()
            peer.send(PING)
            await soon(lambda: len(app.texts) == messages)
            assert await peer.receive() == (PONG, b"")
            assert set(app.texts) == {"x" * 65_536}

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@on_both_loops
async def test_what_drains_is_left_alone_at_the_end() -> None:
    drained, other = Live(), Live()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (drained if scope["path"] == "/drained" else other)(scope, receive, send)

    async with (
        served(app) as server,
        Peer(server.port, "/drained") as peer,
        Peer(server.port) as others,
    ):
        await soon(lambda: drained.wire and other.wire and other.wire.flowing)
        drained.wire.drains = True
        for connection in list(server.server_state.connections):
            connection.shutdown()
        assert await others.closed() == (1012, "")
        await soon(lambda: other.ended)
        drained.wire.write(Message(b"still here"))
        assert await peer.receive_text() == "still here"
        drained.wire.close(4001)
        for connection in list(server.server_state.connections):
            connection.shutdown()
        assert await peer.closed() == (4001, "")
        await drained.over(server)


@on_both_loops
async def test_refusals_are_answers_of_http() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/closed":
            await send({"type": "websocket.close"})
            return
        headers = [(b"content-length", b"4"), (b"retry-after", b"1")]
        await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"busy"})

    async with served(app) as server:
        async with Peer(server.port) as peer:
            assert (peer.status, peer.body, peer.headers["retry-after"]) == (429, b"busy", "1")
        async with Peer(server.port, "/closed") as peer:
            assert peer.status == 403
        async with Peer(server.port, Sec_WebSocket_Version="7") as peer:
            assert peer.status == 400
        await soon(lambda: not server.server_state.connections)


@on_both_loops
async def test_an_idle_connection_keeps_nothing_of_its_request() -> None:
    app = Live()
    gc.collect()
    gc.disable()
    try:
        async with served(app) as server, Peer(server.port):
            await soon(lambda: app.wire.flowing)
            protocol = app.protocol
            assert protocol.request is protocol.response is None
            assert not [o for o in gc.get_objects() if isinstance(o, HttpToolsProtocol)]
            assert protocol.conn.parser.gi_frame.f_locals.get("request") is None
    finally:
        gc.enable()


@on_both_loops
async def test_pings_of_uvicorn_are_for_those_who_send_none() -> None:
    app, other = Live(), Live()

    async def both(scope: Any, receive: Any, send: Any) -> None:
        await (app if scope["path"] == "/drained" else other)(scope, receive, send)

    async with (
        served(both, ws_ping_interval=0.05, ws_ping_timeout=0.2) as server,
        Peer(server.port, "/drained") as peer,
        Peer(server.port) as others,
    ):
        await soon(lambda: app.wire and app.wire.flowing)
        app.wire.drains = True
        assert await others.closed() == (1011, "keepalive ping timeout")
        assert app.wire.flowing
        app.wire.write(Message(b"no ping before this"))
        assert await peer.receive_text() == "no ping before this"


async def test_two_who_receive_both_get_on() -> None:
    inbox = ours.Inbox(asyncio.get_running_loop())
    first, second, third = (asyncio.create_task(inbox.get()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    inbox.put_nowait(1)
    inbox.put_nowait(2)
    assert {await second, await third} == {1, 2}
    assert inbox.empty()


async def test_who_waits_no_more_is_not_kept() -> None:
    inbox = ours.Inbox(asyncio.get_running_loop())
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(inbox.get(), 0.001)
    assert inbox._waiting == []


async def test_h5_a_handshake_with_a_body_is_refused() -> None:
    app = Live()
    async with served(app) as server, Peer(server.port, Content_Length="5") as peer:
        assert peer.status == 400
        await soon(lambda: not server.server_state.connections)
