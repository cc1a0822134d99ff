"""Broken framing, against the real server: refused or closed, nothing smuggled, memory flat."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server import Server, free_port

GROWTH = 60 * 2**20
"""Bytes that the server may grow while it refuses."""
HUGE = 300 * 2**20
MIB = b"a" * 2**20


@dataclass(frozen=True)
class Target:
    port: int
    pid: int

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    async def answers(self) -> bool:
        """Whether somebody else is answered within a second or two."""
        request = b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return (await self.exchange(request, seconds=5)).startswith(b"HTTP/1.1 200")

    async def exchange(self, *parts: bytes, seconds: float = 10, repeat: int = 1) -> bytes:
        """What the server sends until it closes, or falls silent, after these parts."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(parts[0])
            for part in parts[1:]:
                for _ in range(repeat):
                    writer.write(part)
                    await asyncio.wait_for(writer.drain(), seconds)
        except ConnectionError:
            pass
        received = b""
        try:
            while chunk := await asyncio.wait_for(reader.read(65_536), min(seconds, 2)):
                received += chunk
        except (ConnectionError, TimeoutError):
            pass
        finally:
            writer.close()
        return received


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    server = Server(tmp_path_factory.mktemp("framing"), free_port())
    try:
        server.start()
        yield Target(server.port, server.process.pid)
    finally:
        server.close()


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


REGISTER = "/api/v1/auth/register"
PATHS = [REGISTER, "/api/v1/auth/login", "/api/v1/items", "/api/v1/nowhere"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_i1_300_mib_are_not_held(server: Target, path: str, framing: str) -> None:
    before = server.memory()
    if framing == "length":
        start, part = head("POST", path, f"Content-Length: {HUGE}"), MIB
    else:
        start = head("POST", path, "Transfer-Encoding: chunked")
        part = b"100000\r\n" + MIB + b"\r\n"
    sending = asyncio.create_task(server.exchange(start, part, repeat=300))
    assert await server.answers()
    received = statuses(await sending)
    assert received[0] in (404, 413, 415)
    assert await server.answers()
    assert server.memory() - before < GROWTH


@pytest.mark.parametrize("length", ["1", "40"])
async def test_lying_lengths(server: Target, length: str) -> None:
    body = b'{"refresh_token": "xxxxxxxxx"}'
    received = await server.exchange(
        head("POST", "/api/v1/auth/refresh", f"Content-Length: {length}") + body
    )
    assert all(400 <= status < 500 for status in statuses(received))
    assert await server.answers()


WHOLE = (b"Host: b\r\n\r\n", b"live HTTP/1.1\r\n\r\n")
SMUGGLED = b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
AMBIGUOUS = {
    "length and chunked": head("POST", REGISTER, "Content-Length: 4", CHUNKED) + b"0\r\n\r\n",
    "chunked and length": head("POST", REGISTER, CHUNKED, "Content-Length: 5") + b"0\r\n\r\n",
    "two lengths": head("POST", REGISTER, "Content-Length: 0", "Content-Length: 44"),
    "a list of lengths": head("POST", REGISTER, "Content-Length: 0, 44"),
    "a negative length": head("POST", REGISTER, "Content-Length: -1"),
    "a length with a sign": head("POST", REGISTER, "Content-Length: +0"),
    "a hexadecimal length": head("POST", REGISTER, "Content-Length: 0x0"),
    "a length beyond 64 bits": head("POST", REGISTER, "Content-Length: " + "9" * 30),
    "a coding of two names": head("POST", REGISTER, "Transfer-Encoding: chunked, identity"),
    "an unknown coding": head("POST", REGISTER, "Transfer-Encoding: xchunked"),
    "a coding with a tab": head("POST", REGISTER, "Transfer-Encoding:\x0bchunked"),
    "a space before the colon": head("POST", REGISTER, "Transfer-Encoding : chunked"),
    "a chunk size that is none": head("POST", REGISTER, CHUNKED) + b"zz\r\n",
    "a negative chunk size": head("POST", REGISTER, CHUNKED) + b"-1\r\n",
    "a chunk size beyond 64 bits": head("POST", REGISTER, CHUNKED) + b"f" * 20 + b"\r\n",
    "a chunk that is longer": head("POST", REGISTER, CHUNKED) + b"1\r\nabc\r\n0\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n Content-Length: 9\r\n\r\n",
    "a line of no header": b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two hosts": b"GET /api/v1/health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET /api/v1/health/live HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_h5_nothing_is_smuggled(server: Target, request_: bytes) -> None:
    received = await server.exchange(request_ + SMUGGLED, seconds=1)
    first, *others = statuses(received)
    assert first == 400
    # Their framing is sound, so that what follows is a request of its own.
    assert others == ([200] if request_.endswith(WHOLE) else [])
    assert await server.answers()


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-{number}: a" for number in range(20_000)],
        ["X-A: " + "a" * 300_000],
        ["Cookie: " + "a=b; " * 100_000],
    ],
    ids=["many", "long", "cookies"],
)
async def test_large_headers(server: Target, headers: list[str]) -> None:
    before = server.memory()
    received = await server.exchange(head("GET", "/api/v1/items", *headers))
    assert all(400 <= status < 500 for status in statuses(received))
    assert server.memory() - before < GROWTH
    assert await server.answers()


async def test_a_long_address(server: Target) -> None:
    for path in ("/" + "a" * 200_000, "/api/v1/items?" + "a=1&" * 50_000, "/" + "%2e%2e/" * 5_000):
        received = statuses(await server.exchange(head("GET", path)))
        assert all(400 <= status < 500 for status in received)
    assert await server.answers()


async def test_pipelined_requests_are_answered_in_order(server: Target) -> None:
    one = b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\nX-Request-ID: pipeline-%03d\r\n\r\n"
    received = await server.exchange(b"".join(one % number for number in range(100)))
    ids = re.findall(rb"x-request-id: pipeline-(\d+)", received.lower())
    assert [int(number) for number in ids] == list(range(100))


async def test_a_body_that_is_not_read_hides_no_request(server: Target) -> None:
    body = SMUGGLED
    request = head("POST", "/api/v1/nowhere", f"Content-Length: {len(body)}") + body
    assert statuses(await server.exchange(request, seconds=1)) == [404]
