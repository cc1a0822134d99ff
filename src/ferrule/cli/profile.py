"""`ferrule profile`: where the time of a running server goes, as py-spy sees it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ferrule.cli import application
from ferrule.cli.layers import shares
from ferrule.cli.listeners import listeners
from ferrule.errors import ConfigurationError

RATE = 100
"""Looks a second, as many as py-spy takes by itself."""


class _Failed(Exception):
    """Nothing was measured, for the reason that it tells."""


def profile(*, pid: int | None, port: int | None, seconds: int, stacks: Path | None) -> int:
    """Print the share of each layer; the exit status."""
    program = _py_spy()
    try:
        pid = pid or _server(port)
        print(f"Looking for {seconds} s: send it requests meanwhile.", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            file = stacks or Path(folder) / "stacks"
            _record(program, pid, seconds, file)
            lines = file.read_text(encoding="utf-8").splitlines()
    except _Failed as failure:
        print(f"Error: {failure}", file=sys.stderr)
        return 1
    package = application.name().partition(":")[0].partition(".")[0]
    found = shares(lines, looks=RATE * seconds, package=package)
    print(_table(f"process {pid}, {seconds} s", found))
    return 0


def _py_spy() -> str:
    beside = Path(sys.executable).parent
    program = shutil.which("py-spy") or shutil.which("py-spy", path=str(beside))
    if program is None:
        raise ConfigurationError("py-spy is not installed: pip install py-spy")
    return program


def _server(port: int | None) -> int:
    if port is None:
        port = application.load().settings.port
    found = listeners(port)
    if len(found) == 1:
        return found[0]
    if not found:
        raise _Failed(
            f"no process that may be seen listens on port {port}: start the server, or name it "
            f"with --pid."
        )
    raise _Failed(
        f"{len(found)} processes listen on port {port}; name one of them with --pid: "
        f"{', '.join(map(str, found))}."
    )


def _record(program: str, pid: int, seconds: int, file: Path) -> None:
    options = ("--format", "raw", "--threads", "--full-filenames", "--rate", str(RATE))
    done = subprocess.run(  # noqa: S603
        [program, "record", "--pid", str(pid), "--duration", str(seconds), *options,
         "--output", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    if done.returncode != 0:
        raise _Failed(_reason(pid, said))
    if "process exited" in said:
        raise _Failed(f"process {pid} ended meanwhile.")
    for line in said.splitlines():
        if "behind in sampling" in line:
            print(line, file=sys.stderr)


def _reason(pid: int, said: str) -> str:
    refusals = ("permission denied", "operation not permitted", "requires root")
    if any(refusal in said.lower() for refusal in refusals):
        return (
            f"looking into process {pid} is not permitted. Do it as root (sudo "
            f'"$(command -v ferrule)" profile --pid {pid}); on Linux, let processes look into '
            f"others of their user until the next boot (sudo sysctl kernel.yama.ptrace_scope=0); "
            f"start a container with --cap-add SYS_PTRACE."
        )
    first = next((line for line in said.splitlines() if line.startswith("Error: ")), said)
    return f"py-spy: {first.removeprefix('Error: ').strip()}"


def _table(title: str, found: Mapping[str, float]) -> str:
    width = max(map(len, (title, *found)))
    lines = [f"{layer:{width}}  {share:6.1%}" for layer, share in found.items()]
    return "\n".join([f"{title:{width}}   share", *lines])
