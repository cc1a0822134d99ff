"""The commands `ferrule` and `pytest`, forked from a process that has imported them.

Guides run them often, and an import of all that they stand on takes longer than what they do.
"""

import contextlib
import importlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PRELOADED = (
    "alembic.autogenerate",
    "alembic.command",
    "asyncpg",
    "ferrule.cli.commands",
    "ferrule.db.migrations",
    "ferrule.modules",
    "ferrule.testing.plugin",
    "httpx",
    "pytest",
    "pytest_asyncio.plugin",
)
_CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(asked)
    status = server.recv(1)
sys.exit(status[0] if status else 70)
"""


@contextlib.contextmanager
def commands(environment: dict[str, str]) -> Iterator[Path]:
    """A folder for PATH, with the commands. They run in the foreground only: signals stay here."""
    # Short, as the address of a socket has to be.
    with tempfile.TemporaryDirectory(prefix="ferrule-") as made:
        folder = Path(made)
        address = folder / "socket"
        client = folder / "client.py"
        client.write_text(_CLIENT.format(address=str(address)))
        for name in ("ferrule", "pytest"):
            line = shlex.join([sys.executable, "-IS", str(client), name])
            (folder / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            (folder / name).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen()
            server = subprocess.Popen(
                # -P, as this folder has names of the standard library.
                [sys.executable, "-P", __file__, str(listener.fileno())],
                cwd=folder,
                env=environment,
                pass_fds=[listener.fileno()],
            )
        try:
            yield folder
        finally:
            server.kill()
            server.wait()


def _serve(listener: socket.socket) -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(connection: socket.socket) -> None:
    """In the forked process: become the command that was asked for."""
    status = 70
    try:
        head, files, _, _ = socket.recv_fds(connection, 4, 3)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        text = connection.makefile("rb").read(int.from_bytes(head, "big"))
        arguments, folder, environment = json.loads(text)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        status = _run(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([status]))
        os._exit(0)


def _run(arguments: list[str]) -> int:
    sys.argv = arguments
    # As for a program of an environment's bin.
    sys.path.insert(0, str(Path(sys.executable).parent))
    try:
        if arguments[0] == "pytest":
            import pytest

            return int(pytest.main(arguments[1:]))
        from ferrule.cli import main

        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
