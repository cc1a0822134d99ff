"""A server that runs in a process of its own: started, stopped and killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HOST = "127.0.0.1"
CLI = (sys.executable, "-c", "from ferrule.cli import main; main()")
FERRULE = (*CLI, "serve", "--port", "{port}")
START = 60.0
"""Seconds that a start may take on a busy machine."""


def environment(**variables: str) -> dict[str, str]:
    """Ours without settings of this project, and with these variables."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("FERRULE_")}
    # Without compiled files each start would compile all libraries again.
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return ours | variables


class Server:
    """`command` has `{port}` where the port belongs; `settings` are variables without FERRULE_."""

    def __init__(
        self, folder: Path, port: int, *, command: tuple[str, ...] = FERRULE, **settings: str
    ) -> None:
        self.folder = folder
        self.port = port
        self.command = [part.format(port=port) for part in command]
        self.log = folder / f"server-{port}.log"
        self._settings = {f"FERRULE_{name}": value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def launch(self, *arguments: str) -> None:
        """Start it without waiting for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, *arguments],
                cwd=self.folder,
                env=environment(**self._settings),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self, *arguments: str) -> float:
        """Start it; the seconds to its first healthy answer."""
        started = time.monotonic()
        self.launch(*arguments)
        self.wait_until_healthy()
        return time.monotonic() - started

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output()
            try:
                with urllib.request.urlopen(f"http://{HOST}:{self.port}/api/v1/health"):
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"it did not answer in time\n{self.output()}")

    def kill(self) -> None:
        """End it and its workers without notice."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; the exit status."""
        self.process.send_signal(number)
        return self.exit_status()

    def exit_status(self) -> int:
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not stop\n{self.output()}") from None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        if self._process is not None:
            self.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        number: int = free.getsockname()[1]
        return number
