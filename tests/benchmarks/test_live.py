"""Clients count whole frames, crowds are served, and what was measured is told and judged."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from benchmarks.contenders import NAIVE
from benchmarks.data import fill
from benchmarks.live import (
    BARE,
    DURABLE_SQLITE,
    FERRULE,
    FERRULE_POSTGRESQL,
    IDLE_CONTENDERS,
    LIVE_CONTENDERS,
    RAW,
    SOCKET_IO,
    STARLETTE,
    LiveContender,
    fanout,
    idle,
    latency,
)
from benchmarks.live.dialects import Ferrule, Plain, SocketIo
from benchmarks.live.emit import EMIT_CONTENDERS, SILENT, TOLD, EmitResult
from benchmarks.live.fanout import FanOut, FanOutResult
from benchmarks.live.frames import PING, PONG, TEXT, client_frame, frames
from benchmarks.live.idle import IdleResult
from benchmarks.live.latency import CASES, Latencies, LatencyResult, Spread
from benchmarks.live.report import live_lines, live_verdicts
from benchmarks.live.results import LiveResults
from benchmarks.live.servers import Stores
from benchmarks.live.sockets import Door, Sockets
from benchmarks.rounds import Plan
from benchmarks.samples import Sample

PLAN = Plan(rounds=1, seconds=0.2, starts=0, patience=0)
EVENT = b"\x81\x7e\x00\xd6" + b"x" * 214


def fanned(contender: LiveContender, *rates: float, foreign: float = 0.0) -> FanOutResult:
    samples = [FanOut(rate, 1e6 / rate, 0.99, 0.7, 0, foreign) for rate in rates]
    return FanOutResult(contender, 218, samples)


def emitted(rate: dict[str, float]) -> dict[str, EmitResult]:
    return {
        each.key: EmitResult(each, [Sample(9, rate[each.key], 1, 2, 0, 5, 0)])
        for each in EMIT_CONTENDERS
    }


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    for module in (fanout, idle, latency):
        monkeypatch.setattr(module, "PORT", number)
    return number


def test_frames_are_found_by_their_boundaries() -> None:
    long = b"\x81\x7f" + (70_000).to_bytes(8) + b"y" * 70_000
    data = bytearray(b"\x89\x01p" + EVENT + long + EVENT[:100])
    found = list(frames(data, len(data)))
    assert [(first, end - start) for first, start, end in found] == [
        (PING, 1),
        (TEXT, 214),
        (TEXT, 70_000),
    ]
    assert not list(frames(data, 2))


def test_a_client_masks_what_it_sends_with_nothing() -> None:
    for size in (5, 200, 70_000):
        payload = b"z" * size
        sent = client_frame(payload)
        assert sent[1] & 0x80
        assert sent.endswith(bytes(4) + payload)


def serve(listener: socket.socket, parts: list[bytes]) -> bytes:
    """Let one client in, and send it a part each time that it says something; the last it said."""
    with listener.accept()[0] as connection:
        for part in parts:
            said = connection.recv(4096)
            connection.sendall(part)
        said = connection.recv(4096)
    return said


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with closing(Sockets()) as made:
        yield made


def test_events_are_counted_also_in_parts_and_pings_answered(sockets: Sockets) -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    parts = [upgrade + EVENT[:3], EVENT[3:] + EVENT, EVENT[:100], EVENT[100:] + b"\x89\x01?"]
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve, listener, parts)
        (peer,) = sockets.connect(Door(listener.getsockname()[1], Plain()), 1)
        for events, rest in ((0, 3), (2, 0), (2, 100)):
            assert sockets.until(lambda seen=(events, rest): (peer.events, peer.rest) == seen, 5)  # type: ignore[misc]
            peer.put(b"go")
        assert sockets.until(serving.done, 5)
    assert peer.events == 3
    assert serving.result() == client_frame(b"?", PONG)


def test_a_handshake_that_is_refused_is_told(sockets: Sockets) -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(serve, listener, [refusal])
        with pytest.raises(SystemExit, match="401 Unauthorized"):
            sockets.connect(Door(listener.getsockname()[1], Plain()), 1)
        sockets.close()


def test_dialects_ask_for_an_event_and_answer_heartbeats() -> None:
    assert json.loads(Plain().event("hi")) == {"text": "hi"}
    assert SocketIo().event("hi") == b'42["shout",{"text":"hi"}]'
    assert SocketIo().answer(b"2") == b"3"
    said = Ferrule("arena/1")
    assert json.loads(said.hello()[0]) == {"id": 1, "t": "sub", "ch": "arena/1"}
    assert said.ready(b'{"id":1,"t":"ok","ch":"arena/1","epoch":null,"offset":0}')
    assert not said.ready(b'{"t":"hello","conn":"1","ping":25,"max":65536}')
    assert json.loads(Ferrule("arena/1", "pub").event("hi"))["data"] == {"text": "hi"}
    assert said.answer(b'{"t":"ping"}') == b'{"t":"pong"}'
    with pytest.raises(SystemExit, match="forbidden"):
        said.ready(b'{"id":1,"t":"err","code":"forbidden"}')


def test_targets_are_judged() -> None:
    found = LiveResults(
        fan_out={
            RAW.key: fanned(RAW, 100, 200, 300),
            STARLETTE.key: fanned(STARLETTE, 40, 90, 130),
            SOCKET_IO.key: fanned(SOCKET_IO, 5, 10, 15),
            FERRULE.key: fanned(FERRULE, 90, 180, 150),
        },
        idle={
            "raw": IdleResult(RAW, 100, 50.0, 50.0, 1, 0, 0.0),
            "ours": IdleResult(FERRULE_POSTGRESQL, 100, 39.0, 39.5, 1, 0, 0.0, 2.0, 12.0),
        },
        emit={"sqlite": emitted({NAIVE.key: 10, SILENT.key: 100, TOLD.key: 85})},
    )
    judged = {each.target: (each.figure, each.met) for each in live_verdicts(found)}
    assert judged == {
        "Ferrule, signal, fan-out: ≥ 0.85 x raw asyncio + uvloop": ("0.90", True),
        "Ferrule, signal, fan-out: ≥ 2.3 x Starlette loop": ("2.00", False),
        "Ferrule, signal, fan-out: ≥ 12 x python-socketio": ("18.00", True),
        "Ferrule, memory of an idle socket: ≤ 40 KiB": ("39.5", True),
        "Ferrule, p99 of a GET beside 100 of them: < 10 ms": ("12.0", False),
        "Ferrule, generated, without events, POST: ≥ 10 x FastAPI, naive": ("10.00", True),
        "Ferrule, generated, with an event, POST: ≥ 8 x FastAPI, naive": ("8.50", True),
    }
    assert not list(live_verdicts(LiveResults()))
    found.fan_out = {BARE.key: fanned(BARE, 110, 220, 330), **found.fan_out}
    assert [each.figure for each in live_verdicts(found)][:3] == [
        "0.90 (at most 1.10)",
        "2.00 (at most 2.54)",
        "18.00 (at most 22.00)",
    ]


def test_turns_are_compared_one_by_one_and_disturbed_ones_left_out() -> None:
    mine, its = fanned(FERRULE, 100, 50, 300), fanned(RAW, 200, 100, 300)
    mine.samples.append(fanned(FERRULE, 900, foreign=0.5).samples[0])
    its.samples.append(fanned(RAW, 1).samples[0])
    assert mine.times(its) == 0.5
    assert mine.middle() == 100
    disturbed = FanOutResult(RAW, 218, [FanOut(1, 4.0, 0.2, 0.1, 0, 0.5)])
    assert disturbed.times(FanOutResult(RAW, 218, [FanOut(9, 8.0, 0.9, 0.1, 0, 0.0)])) == 2


def test_everything_is_told() -> None:
    spread = Latencies(Spread(-0.5, 3.0), Spread(2.0, 9.0), 500, 0, 0.0)
    found = LiveResults(
        fan_out={
            RAW.key: fanned(RAW, 1000),
            FERRULE.key: fanned(FERRULE, 900, foreign=0.5),
        },
        latency={CASES[0].key: LatencyResult(CASES[0], [spread])},
        idle={"raw": IdleResult(RAW, 100, 1.5, 1.6, 5000, 0, 0.0)},
        emit={"postgresql": emitted({NAIVE.key: 10, SILENT.key: 100, TOLD.key: 80})},
    )
    lines = list(live_lines(found))
    fan_out = (
        "| Ferrule, signal | 900* | 0.90 | - | - | 1111.11 | 1.11 | 99% | 70% | 218 | 0% | 0 |"
    )
    assert fan_out in lines
    assert "| SQLite, one process | -0.5 | 3.0 | 2.0 | 9.0 | 0 |" in lines
    assert "| raw asyncio + uvloop | 1.5 | 1.6 | 5000 | - | - | 0 |" in lines
    emit = (
        "| PostgreSQL | Ferrule, generated, with an event | 80 | 8.00 | 0.80 | 5 | 1.0 | 2.0 | 0 |"
    )
    assert emit in lines
    json.dumps(found.raw())


def test_contenders_have_keys_of_their_own() -> None:
    assert len({each.key for each in LIVE_CONTENDERS}) == len(LIVE_CONTENDERS)
    assert len({each.key for each in CASES}) == len(CASES)
    assert set(IDLE_CONTENDERS) <= set(LIVE_CONTENDERS)


def test_ferrule_is_measured_beside_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setattr(fanout, "READERS", 5)
    monkeypatch.setattr(latency, "READERS", 5)
    monkeypatch.setattr(idle, "SETTLE", 0.0)
    stores = Stores({"sqlite": fill(f"sqlite:///{tmp_path}/bench.db")}, "")
    found = fanout.run([BARE, RAW, FERRULE], stores, PLAN)
    for result in found.values():
        assert result.frame == 218
        assert all(sample.rate > 0 and not sample.lost for sample in result.samples)
    measured = latency.run([CASES[0]], stores, PLAN)[CASES[0].key].samples[0]
    assert CASES[0].contender is DURABLE_SQLITE
    assert (measured.messages, measured.lost) == (10, 0)
    assert 0 < measured.sent.p50 <= measured.sent.p99
    one = idle.run([FERRULE], stores, PLAN, 20)[FERRULE.key]
    assert (one.sockets, one.lost) == (20, 0)
    assert one.beside is not None
