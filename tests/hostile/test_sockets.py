"""What is live, against the real server: pages of others, floods, and those who stop reading."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ferrule.testing import TestDatabases
from tests.drills.client import Client, sign_in
from tests.server import Server, free_port
from tests.streams.peer import BINARY, CONT, PING, TEXT, Peer, frame

WS = "/api/v1/ws"
LISTED = "https://app.example"
GROWTH = 60 * 2**20
"""Bytes that the server may grow while it refuses."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    settings = {"LOG_LEVEL": "error", "DATABASE__MIGRATE_ON_START": "true"}
    settings |= {"SECURITY__ARGON2_MEMORY_KIB": "8", "SECURITY__ARGON2_PASSES": "1"}
    settings |= {"STREAMS__PER_USER": "5000", "STREAMS__PER_ADDRESS": "5000"}
    settings |= {"STREAMS__STALLED": "0.5", "CORS_ORIGINS": LISTED}
    server = Server(tmp_path_factory.mktemp("sockets"), free_port(), **settings)
    try:
        server.start()
        yield server
    finally:
        server.close()


def memory(server: Server) -> int:
    """Resident bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


class User:
    """Somebody who is signed in, with a room of their own."""

    def __init__(self, server: Server, token: str) -> None:
        self.port, self.token = server.port, token
        self.client = Client(server.port, token)
        self.room = ""

    @property
    def channel(self) -> str:
        return f"rooms/{self.room}"

    def socket(self, query: str = "", **headers: str) -> Peer:
        return Peer(self.port, WS + query, Authorization=f"Bearer {self.token}", **headers)

    async def say(self, text: str) -> None:
        answer = await self.client.request("POST", f"/rooms/{self.room}/messages", {"text": text})
        assert answer.status == 201, answer


@asynccontextmanager
async def user(server: Server, name: str) -> AsyncIterator[User]:
    user = User(server, await sign_in(server.port, name))
    made = await user.client.request("POST", "/rooms", {"name": name, "private": False})
    user.room = made.json()["id"]
    try:
        yield user
    finally:
        user.client.close()


async def heard(peer: Peer, t: str) -> Any:
    """The next message of a kind."""
    while (received := await peer.receive()) is not None:
        opcode, text = received
        if opcode == TEXT and (message := json.loads(text))["t"] == t:
            return message
    raise AssertionError("it was closed")


# The handshake


async def test_w1_pages_of_others_are_refused(server: Server) -> None:
    async with user(server, "ann") as ann:
        own = f"http://127.0.0.1:{server.port}"
        for origin, status in (
            (own, 101),
            (LISTED, 101),
            ("http://127.0.0.1:1", 403),
            ("https://evil.example", 403),
            (f"{LISTED}.evil.example", 403),
            (f"http://{LISTED.partition('//')[2]}", 403),
            ("null", 403),
        ):
            async with ann.socket(Origin=origin) as peer:
                assert peer.status == status, origin
                if status == 403:
                    problem = json.loads(peer.body)
                    assert (problem["status"], problem["code"]) == (403, "bad_origin")
                    assert peer.headers["content-type"] == "application/problem+json"


async def test_w2_nobody_is_accepted_before_it_is_known_who_they_are(server: Server) -> None:
    async with user(server, "ann") as ann:
        bad = {"Authorization": "Bearer nonsense"}
        for query, headers in (
            ("", {}),
            ("", bad),
            (f"?token={ann.token}", {}),
            (f"?access_token={ann.token}", {}),
            (f"?ticket={ann.token[:100]}", {}),
            ("?ticket=nonsense", {}),
            ("?ch=memberships&ch=memberships", bad),
        ):
            async with Peer(server.port, WS + query, **headers) as peer:
                problem = json.loads(peer.body)
                assert (peer.status, problem["status"]) == (401, 401)
                assert peer.headers["content-type"] == "application/problem+json"
                assert "www-authenticate" in peer.headers
        # A browser names a token as the only thing it can, a subprotocol: that is none.
        async with Peer(server.port, WS, Sec_WebSocket_Protocol=f"bearer, {ann.token}") as peer:
            assert peer.status == 401
        assert ann.token not in server.output()


async def test_w2_of_fifty_with_one_ticket_one_is_accepted(server: Server) -> None:
    async with user(server, "ann") as ann, AsyncExitStack() as stack:
        ticket = (await ann.client.request("POST", "/ws/ticket")).json()["ticket"]
        peers = await asyncio.gather(
            *(
                stack.enter_async_context(Peer(server.port, f"{WS}?ticket={ticket}"))
                for _ in range(50)
            )
        )
        assert sorted(peer.status for peer in peers) == [101] + [401] * 49


# Floods


async def test_w4_frames_that_are_too_large_are_not_held(server: Server) -> None:
    async with user(server, "ann") as ann:
        before = memory(server)
        mib = b"a" * 2**20
        for frames in (
            [frame(TEXT, b"a" * 65_537)],
            [frame(TEXT, mib * 16)],
            [frame(BINARY, mib * 16)],
            # What it says counts, and what it sends counts.
            [frame(TEXT, b"a", length=2**62)],
            [frame(TEXT, b"a" * 60_000, fin=False), *[frame(CONT, b"a" * 60_000, fin=False)] * 99],
        ):
            async with ann.socket() as peer:
                await peer.receive_text()
                try:
                    for each in frames:
                        peer.writer.write(each)
                        await peer.writer.drain()
                except ConnectionError:
                    continue
                told = await peer.closed()
                # Of a connection that is reset while it is sent to, nothing can be read.
                assert told is None or told[0] == 1009
        assert memory(server) - before < GROWTH


@pytest.mark.parametrize("what", ["messages", "pings", "fragments", "subscriptions"])
async def test_w4_a_flood_ends_the_one_who_sends_it(server: Server, what: str) -> None:
    flood = {
        "messages": frame(TEXT, b'{"t": "ping"}'),
        "pings": frame(PING, b"x" * 100),
        "fragments": frame(CONT, fin=False),
        "subscriptions": frame(TEXT, b'{"t": "sub", "ch": "memberships", "since": 0}'),
    }[what]
    async with user(server, "ann") as ann, user(server, "bob") as bob:
        before = memory(server)
        async with bob.socket(f"?ch={bob.channel}") as well, ann.socket() as peer:
            await heard(well, "live")
            if what == "fragments":
                peer.send(TEXT, fin=False)

            async def pour() -> None:
                for _ in range(40):
                    peer.writer.write(flood * 500)
                    await peer.writer.drain()

            pouring = asyncio.create_task(pour())
            slowest = 0.0
            for number in range(10):
                began = time.monotonic()
                await bob.say(f"{number}")
                assert (await heard(well, "ev"))["data"]["text"] == f"{number}"
                slowest = max(slowest, time.monotonic() - began)
            if what in ("messages", "subscriptions"):
                told = await peer.closed()
                assert told is None or told[0] == 4504
            pouring.cancel()
            await asyncio.gather(pouring, return_exceptions=True)
        assert slowest < 2
        assert memory(server) - before < GROWTH


# Those who stop reading


def _connections(server: Server) -> int:
    """File descriptors, of which each connection is one, whatever the application knows of it."""
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


@pytest.mark.parametrize("readers", [40, pytest.param(1000, marks=pytest.mark.drill)])
async def test_w4_readers_that_stopped_reading_harm_nobody(server: Server, readers: int) -> None:
    async with user(server, "ann") as ann, user(server, "bob") as bob, AsyncExitStack() as stack:
        others = _connections(server)
        for _ in range(readers):
            peer = await stack.enter_async_context(ann.socket(f"?ch={bob.channel}"))
            await heard(peer, "live")
        well = await stack.enter_async_context(bob.socket(f"?ch={bob.channel}"))
        await heard(well, "live")
        before, slowest = memory(server), 0.0
        assert _connections(server) > others + readers
        # More than the kernel keeps for each of them.
        for number in range(250):
            began = time.monotonic()
            await bob.say(f"{number}".ljust(4000, "\U0001f600"))
            assert (await heard(well, "ev"))["offset"] == number + 2
            slowest = max(slowest, time.monotonic() - began)
        grown = memory(server) - before
        print(f"\ngrown by {grown / 2**20:.0f} MiB, slowest {slowest:.3f} s")
        # What they were sent lies in the transport, at most, and the rest is shared by all.
        assert grown < GROWTH + readers * 150_000
        assert slowest < 2
        async with asyncio.timeout(20):
            while _connections(server) > others + readers / 2:
                await asyncio.sleep(0.1)
        await bob.say("after all")
        assert (await heard(well, "ev"))["data"]["text"] == "after all"


# Several processes


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_w3_what_ends_a_login_acts_in_every_process(
    make_server: Callable[..., Server],
    database_kind: str,
    databases: TestDatabases,
    tmp_path: Path,
) -> None:
    url = await databases.create(database_kind, tmp_path, "sockets")
    servers = make_server(DATABASE_URL=url), make_server(DATABASE_URL=url)
    servers[0].start()
    servers[1].start()
    async with user(servers[0], "ann") as ann, AsyncExitStack() as stack:
        sockets, streams = list[Peer](), list[httpx.Response]()
        for each in servers:
            ann.port = each.port
            peer = await stack.enter_async_context(ann.socket(f"?ch={ann.channel}"))
            await heard(peer, "live")
            sockets.append(peer)
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=10))
            address = f"http://127.0.0.1:{each.port}/api/v1/streams/memberships"
            headers = {"authorization": f"Bearer {ann.token}", "accept": "text/event-stream"}
            stream = client.stream("GET", address, headers=headers)
            streams.append(await stack.enter_async_context(stream))
        began = time.monotonic()
        assert (await ann.client.request("POST", "/auth/logout")).status == 204

        async def ended(stream: httpx.Response) -> None:
            async for _ in stream.aiter_raw():
                pass

        told = await asyncio.gather(
            *(peer.closed() for peer in sockets), *(ended(stream) for stream in streams)
        )
        assert [each and each[0] for each in told[:2]] == [4502, 4502]
        assert time.monotonic() - began < 2
        for each in servers:
            ann.port = each.port
            async with ann.socket() as peer:
                assert peer.status == 401
