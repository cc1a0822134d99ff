"""`ferrule profile`: what it says of a server, and why it says nothing."""

import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import ferrule as package
from ferrule.cli.layers import OTHER, WAITING, layer_of, shares
from ferrule.cli.listeners import listeners
from tests.cli.test_commands import Ferrule
from tests.cli.test_commands import ferrule as ferrule
from tests.server import HOST, Server, free_port

OURS = Path(package.__file__).parent
LIBRARIES = "/venv/lib/python3.11/site-packages"
PYTHON = "/usr/lib/python3.11"
SERVING = (
    f"<module> (/venv/bin/ferrule:10);run ({LIBRARIES}/uvicorn/server.py:86);"
    f"run ({PYTHON}/asyncio/runners.py:118)"
)
EDGE = f"__call__ ({OURS}/http/edge.py:84)"
PLAN = f"answer ({OURS}/http/plan.py:103)"
STACKS = f"""\
thread (7): MainThread;{SERVING} 10
thread (7): MainThread;{SERVING};{EDGE};search ({PYTHON}/re/__init__.py:176) 20
thread (7): MainThread;{SERVING};{EDGE};{PLAN};list_notes (/home/ann/notes.py:80) 30
thread (7): MainThread 5
thread (8): Thread-2 (worker);_run ({LIBRARIES}/aiosqlite/core.py:59) 900
"""


@pytest.mark.parametrize(
    ("innermost", "layer"),
    [
        (f"{OURS}/http/edge.py", "edge"),
        (f"{OURS}/http/index.py", "index and plan"),
        (f"{OURS}/http/rows.py", "validation and serialization"),
        (f"{OURS}/actor.py", "authentication"),
        (f"{OURS}/modules/auth/door.py", "authentication"),
        (f"{OURS}/modules/items/service.py", "services"),
        (f"{OURS}/resources/service.py", "services"),
        (f"{OURS}/db/session.py", "sessions and statements"),
        (f"{OURS}/db/postgresql.py", "driver"),
        (f"{OURS}/observability/logs.py", "logs and metrics"),
        (f"{LIBRARIES}/fastapi/routing.py", "FastAPI and Starlette"),
        (f"{LIBRARIES}/starlette/routing.py", "FastAPI and Starlette"),
        (f"{LIBRARIES}/fastapi/_compat/v2.py", "validation and serialization"),
        (f"{LIBRARIES}/sqlalchemy/orm/session.py", "SQLAlchemy"),
        ("<sqlalchemy generated _go() wrapper for Session.commit>", "SQLAlchemy"),
        (f"{LIBRARIES}/sqlalchemy/dialects/postgresql/asyncpg.py", "driver"),
        (f"{LIBRARIES}/asyncpg/connection.py", "driver"),
        (f"{LIBRARIES}/uvicorn/protocols/http/httptools_impl.py", "server"),
        (f"{PYTHON}/json/encoder.py", "validation and serialization"),
        (f"{PYTHON}/logging/__init__.py", "logs and metrics"),
        ("C:\\Python312\\Lib\\json\\encoder.py", "validation and serialization"),
        ("/home/ann/json/logging/notes.py", "services"),
        (f"{LIBRARIES}/notes/service.py", "services"),
        # What works for its caller.
        (f"{OURS}/kit.py", "index and plan"),
        (f"{LIBRARIES}/somebody/client.py", "index and plan"),
        (f"{PYTHON}/re/__init__.py", "index and plan"),
        ("<string>", "index and plan"),
    ],
)
def test_the_layer_of_a_stack(innermost: str, layer: str) -> None:
    stack = [*SERVING.split(";"), EDGE, PLAN, f"somebody.<locals>.f ({innermost}:12)"]
    assert layer_of(stack, "notes") == layer


@pytest.mark.parametrize("file", sorted(OURS.glob("http/*.py")) + sorted(OURS.glob("db/*.py")))
def test_all_files_on_the_way_have_a_layer(file: Path) -> None:
    assert layer_of([f"f ({file}:1)"]) != OTHER


def test_shares_are_those_of_the_loops_thread() -> None:
    found = shares(STACKS.splitlines(), looks=100)
    assert found == {WAITING: 0.35, "services": 0.3, "edge": 0.2, "server": 0.1, OTHER: 0.05}
    assert shares([], looks=100) == {WAITING: 1}
    # It may look once more than it was told to.
    assert shares(STACKS.splitlines(), looks=50)[WAITING] == 0


PySpy = Callable[[str], None]


@pytest.fixture
def py_spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PySpy:
    """Puts a py-spy in the place of any other; `script` has its arguments and `$output`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(script: str) -> None:
        file = folder / "py-spy"
        file.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{script}\n')
        file.chmod(0o755)

    (tmp_path / "stacks").write_text(STACKS)
    return make


def test_a_table(ferrule: Ferrule, py_spy: PySpy, tmp_path: Path) -> None:
    py_spy(f"""
        while [ "$1" != --output ]; do shift; done
        cp {tmp_path}/stacks "$2"
        echo "py-spy> 1.2s behind in sampling, results may be inaccurate."
    """)
    kept = tmp_path / "kept"
    assert ferrule("profile", "--pid", "7", "--seconds", "1", "--stacks", str(kept)) == 0
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("record --pid 7 --duration 1 --format raw --threads --full-filenames")
    assert ferrule.out == (
        "process 7, 1 s   share\n"
        "waiting          35.0%\n"
        "services         30.0%\n"
        "edge             20.0%\n"
        "server           10.0%\n"
        "other             5.0%\n"
    )
    assert "1.2s behind in sampling" in ferrule.err
    assert kept.read_text() == STACKS


def test_py_spy_is_not_installed(
    ferrule: Ferrule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert ferrule("profile", "--pid", "7") == 2
    assert ferrule.err == "Error: py-spy is not installed: pip install py-spy\n"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo 'Permission Denied: Try running again with elevated permissions' >&2; exit 1",
            r"process 7 is not permitted\. Do it as root .*--pid 7.*ptrace_scope=0.*SYS_PTRACE",
        ),
        ("echo 'This program requires root on OSX.'; exit 1", "Do it as root"),
        (
            "echo 'Error: Failed to find python version from target process' >&2; exit 1",
            "py-spy: Failed to find python version",
        ),
        ("echo 'py-spy> Stopped sampling because process exited'", "process 7 ended meanwhile"),
    ],
)
def test_why_nothing_was_measured(ferrule: Ferrule, py_spy: PySpy, script: str, told: str) -> None:
    py_spy(script)
    assert ferrule("profile", "--pid", "7") == 1
    assert re.search(rf"^Error: .*{told}", ferrule.err, re.MULTILINE)
    assert ferrule.out == ""


linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells who listens")


@linux
def test_who_listens() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        assert listeners(port) == [os.getpid()]
        # A child that has the listener, too.
        with subprocess.Popen(["sleep", "30"], pass_fds=[listener.fileno()]) as child:
            assert listeners(port) == [child.pid]
            child.kill()
    assert listeners(port) == []


@linux
def test_nobody_listens(ferrule: Ferrule, py_spy: PySpy) -> None:
    py_spy("exit 1")
    port = free_port()
    assert ferrule("profile", "--port", str(port)) == 1
    assert f"listens on port {port}: start the server" in ferrule.err
    assert ferrule("profile", FERRULE_PORT=str(port)) == 1
    assert f"listens on port {port}: start the server" in ferrule.err


@linux
def test_a_server_under_load(ferrule: Ferrule, make_server: Callable[..., Server]) -> None:
    server = make_server(ENVIRONMENT="production", ALLOWED_HOSTS=HOST)
    server.start()
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            with urllib.request.urlopen(f"http://{HOST}:{server.port}/api/v1/health/live"):
                pass

    thread = threading.Thread(target=load)
    thread.start()
    try:
        status = ferrule("profile", "--port", str(server.port), "--seconds", "2")
    finally:
        ended.set()
        thread.join()
    if "not permitted" in ferrule.err:
        pytest.skip("this user may not look into processes")
    assert status == 0, ferrule.err
    found = dict(re.findall(r"^(\S.*?) +([\d.]+)%$", ferrule.out, re.MULTILINE))
    assert sum(map(float, found.values())) == pytest.approx(100, abs=1)
    assert float(found["server"]) > 0
    assert float(found[WAITING]) < 100
    assert {"FastAPI and Starlette", "edge", "index and plan"} & set(found)
