"""The load generator counts what it is answered, and every failure."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.load import measure

REQUESTS = [b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % number for number in range(10)]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno"


@contextmanager
def serving(answer: Callable[[bytes], list[bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers a request with these parts, one after the other; none: it hangs up."""
    asked: list[bytes] = []
    bound: Future[tuple[int, Callable[[], object]]] = Future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await reader.read(1000)) and (parts := answer(request)):
                asked.append(request)
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(0)
        finally:
            writer.close()
            await writer.wait_closed()

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            bound.set_result((port, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, serve())
        port, stop = bound.result(10)
        try:
            yield port, asked
        finally:
            stop()
            running.result(10)


def test_answers_are_counted_also_in_parts() -> None:
    with serving(lambda _: [OK[:20], OK[20:-1], OK[-1:]]) as (port, asked):
        load = measure(port, REQUESTS, status=200, seconds=0.2, connections=4)
    assert load.failed == 0
    assert load.requests == len(asked) >= 4
    assert set(asked) == set(REQUESTS)
    assert 0 < load.p50 <= load.p99


def test_a_wrong_status_is_a_failure() -> None:
    with serving(lambda request: [BROKEN if b"/3 " in request else OK]) as (port, asked):
        load = measure(port, REQUESTS, status=200, seconds=0.2, connections=2)
    assert load.failed == sum(b"/3 " in request for request in asked) > 0


def test_a_connection_that_breaks_is_a_failure() -> None:
    with serving(lambda _: []) as (port, _):
        load = measure(port, REQUESTS, status=200, seconds=0.2, connections=3)
    assert (load.requests, load.failed) == (0, 3)
