"""A sample beside which something else ran is known."""

import subprocess
import sys
import time

from benchmarks import processes
from benchmarks.samples import LIMIT, Watch

BUSY = [sys.executable, "-c", "while True: pass"]


def test_foreign_load_is_seen_and_told_from_the_servers() -> None:
    watch = Watch(postmaster=None)
    with subprocess.Popen(BUSY) as server, subprocess.Popen(BUSY) as stranger:
        try:
            time.sleep(0.5)
            used, foreign = watch.since(processes.tree(server.pid))
            of_server, of_stranger = (processes.cpu([each.pid]) for each in (server, stranger))
        finally:
            server.kill()
            stranger.kill()
    assert 0 < used <= of_server
    assert foreign > LIMIT
    assert of_stranger > 0
