"""Servers that are replaced one after the other behind a proxy, under readers and writers."""

import asyncio
import itertools
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests import documents
from tests.drills.streams.readers import Reader, reading
from tests.drills.streams.stage import Stage
from tests.server import HOST, Server
from tests.streams.brokers import missing

full = pytest.mark.drill
external = pytest.mark.external
BALANCER = Path(__file__).with_name("balancer.py")
BUCKET = 0.25
GUIDE = documents.ROOT / "docs" / "how-to" / "run-many-processes.md"
"""Where the configuration of nginx stands."""
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
worker_processes 1;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {guide}
}}
"""

MakeProxy = Callable[[list[Server]], Server]


@pytest.fixture
def make_balancer(make_server: Callable[..., Server]) -> MakeProxy:
    """A proxy of TCP connections."""

    def make(servers: list[Server]) -> Server:
        balancer = make_server()
        ports = [str(server.port) for server in servers]
        balancer.command = [sys.executable, str(BALANCER), str(balancer.port), *ports]
        return balancer

    return make


@pytest.fixture
def make_nginx(make_server: Callable[..., Server], tmp_path: Path) -> MakeProxy:
    """nginx with the configuration that the guide shows, but for addresses and TLS."""

    def make(servers: list[Server]) -> Server:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            missing("nginx is not installed")
        (guide,) = (block.text for block in documents.blocks(GUIDE) if block.language == "nginx")
        balancer = make_server()
        ports = iter(server.port for server in servers)
        guide = re.sub(r"server 10\.[\d.]+:\d+", lambda _: f"server {HOST}:{next(ports)}", guide)
        guide = guide.replace("listen 443 ssl", f"listen {HOST}:{balancer.port}")
        guide = guide.replace("/var/log/nginx", str(tmp_path))
        file = tmp_path / "nginx.conf"
        file.write_text(NGINX.format(folder=tmp_path, guide=guide))
        balancer.command = [program, "-c", str(file), "-p", str(tmp_path)]
        return balancer

    return make


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("proxy", "restarts", "number"),
    [
        ("make_balancer", 1, 40),
        pytest.param("make_nginx", 2, 40, marks=external),
        pytest.param("make_balancer", 20, 500, marks=full),
        pytest.param("make_nginx", 20, 500, marks=full),
    ],
)
async def test_nobody_misses_anything(
    stage: Stage, proxy: str, restarts: int, number: int, request: pytest.FixtureRequest
) -> None:
    front = request.getfixturevalue(proxy)(stage.servers)
    await asyncio.to_thread(front.start)
    id, begun = uuid4(), list[float]()
    readers = [Reader(lambda: front.port, stage.token, f"drill/{id}") for _ in range(number)]
    stage.port = lambda: front.port  # type: ignore[method-assign]
    async with reading(readers):
        await stage.complete(id, readers)
        async with stage.writing(id, writers=2, pause=0.1, padding=100):
            for restart in range(restarts):
                server = stage.servers[restart % 2]
                begun.append(time.monotonic())
                assert await asyncio.to_thread(server.stop) == 0, server.output()
                await asyncio.to_thread(server.start)
        seconds = await stage.complete(id, readers)
    events = await stage.audit(id, readers)
    codes = Counter(code for reader in readers for code in reader.closed)
    print(
        f"\n{restarts} restarts, {number} readers, {events} events, complete after "
        f"{seconds:.2f} s; closed {dict(codes)}, answers {dict(stage.answers)}"
    )
    returns = sorted(moment for reader in readers for moment in reader.returns)
    for moment, following in itertools.pairwise([*begun, float("inf")]):
        after = [each - moment for each in returns if moment <= each < following]
        counts = Counter(int(each / BUCKET) for each in after)
        histogram = [counts[bucket] for bucket in range(max(counts, default=0) + 1)]
        print(f"{len(after)} came back, in each {BUCKET} s: {histogram}")
        assert max(counts.values(), default=0) <= max(10, len(after) / 2), "all at once"
    assert len(returns) >= restarts * number / 4, "the drill did not bite"
    assert set(codes) <= {4001}
    assert stage.lost == [], "not answered, after so many seconds without a request"
    assert set(stage.answers) <= {204, 422}
