"""websockets' own server and its `broadcast`, without compression.

python -m benchmarks.live.contenders.broadcast <port>
"""

import asyncio
import os
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

PING = float(os.environ.get("BENCHMARK_PING", "20"))
readers: set[ServerConnection] = set()


async def reader(connection: ServerConnection) -> None:
    readers.add(connection)
    try:
        async for message in connection:
            broadcast(readers, message)
    finally:
        readers.discard(connection)


async def main() -> None:
    async with serve(
        reader,
        "127.0.0.1",
        int(sys.argv[1]),
        compression=None,
        backlog=2048,
        ping_interval=PING,
        ping_timeout=PING,
    ):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())
