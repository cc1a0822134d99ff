"""`kill -9` of the server in the middle of writes: nothing that was acknowledged is lost."""

import asyncio
import random
import re
import sys
import time
from pathlib import Path

import pytest

from tests.drills.client import sign_in
from tests.drills.ledger import Ledger, audit, writing
from tests.server import Server

full = pytest.mark.drill
UP = 2.0
"""Seconds from the start to the first healthy answer."""
COUNTING = (sys.executable, str(Path(__file__).with_name("counting.py")), "serve", "--port")


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=full)])
async def test_no_acknowledged_write_is_lost(server: Server, url: str, kills: int) -> None:
    ledger, starts, rates = Ledger(), list[float](), list[float]()
    if url.startswith("sqlite"):
        server.command = [*COUNTING, str(server.port)]
    server.start()
    token = await sign_in(server.port)
    for _ in range(kills):
        round_ = Ledger()
        # As fast as they are answered, so that many wait for each COMMIT.
        async with writing(round_, server.port, token, clients=25):
            await _first_answer(round_)
            await asyncio.sleep(random.uniform(0.4, 1.2))
            server.kill()
        assert not round_.unexpected, round_.unexpected[:3]
        rates.append(round_.rate)
        ledger.acknowledged |= round_.acknowledged
        ledger.unanswered |= round_.unanswered
        starts.append(await asyncio.to_thread(server.start))
        await audit(url, ledger)
    typical = sorted(starts)[kills // 2]
    print(
        f"\n{kills} kills, {len(ledger.acknowledged)} acknowledged, {len(ledger.unanswered)} "
        f"unanswered, median {sorted(rates)[kills // 2]:.0f} writes/s, "
        f"up after {min(starts):.2f} to {max(starts):.2f} s, median {typical:.2f} s"
    )
    if kills > 1:
        assert max(starts) < UP
    if url.startswith("sqlite"):
        _check_groups((server.folder / "groups").read_text(), len(ledger.acknowledged))


def _check_groups(notes: str, acknowledged: int) -> None:
    """All was written by prebuilt statements, and committed in groups."""
    groups = [len(group) for group in re.split(r"[c\n]", notes) if group]
    print(
        f"groups of up to {max(groups)}, {notes.count('i') / notes.count('c'):.1f} items a COMMIT"
    )
    assert notes.count("i") >= acknowledged
    assert max(groups) > 1
    assert notes.count("i") > 2 * notes.count("c")


async def _first_answer(ledger: Ledger) -> None:
    deadline = time.monotonic() + 10
    while not ledger.acknowledged:
        assert time.monotonic() < deadline, "nothing was acknowledged"
        await asyncio.sleep(0.005)
