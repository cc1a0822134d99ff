"""Reads the documentation's pages, and runs what they show.

A page is a script, run from top to bottom in a folder of its own:

- ```` ```python title="notes.py" ```` (any language) is written to that file; the same title again
  replaces it
- ```` ```sh ```` is run by bash, as if pasted into one terminal; `:8000` becomes a free port
- ```` ```sh postgresql ```` is run first, and only where the page is tried on PostgreSQL
- a block with the word `output` is what the block before printed; `…` stands for anything
- guides that start no server have their `ferrule` and `pytest` from `tests/preloaded.py`
- ```` ```console ```` and ```` ```text ```` are read, not run
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
POSTGRES = "postgresql://postgres@127.0.0.1:5432/ferrule"
"""The address that pages name; a test's own database takes its place."""

_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the words behind it, its text and first line."""

    page: Path
    line: int
    language: str
    words: str
    text: str

    @property
    def title(self) -> str | None:
        found = _TITLE.search(self.words)
        return found and found[1]

    @property
    def flags(self) -> set[str]:
        return set(_TITLE.sub("", self.words).split())

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README.md, CHANGELOG.md, CONTRIBUTING.md and all of docs/."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, *match.groups())
        for match in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def write(page: Path, folder: Path) -> None:
    """Write the files that a page shows."""
    for block in blocks(page):
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")


def run(
    page: Path, folder: Path, *, database_url: str | None = None, commands: Path | None = None
) -> None:
    """Run a page's script in `folder`; fails at the block that fails or prints otherwise.

    `commands` is a folder whose programs take the place of those in the environment.
    """
    kept = folder / ".blocks"
    kept.mkdir(parents=True)
    steps = [block for block in blocks(page) if block.title or block.language == "sh"]
    first = [block for block in steps if "postgresql" in block.flags]
    steps = [block for block in steps if block not in first]
    if database_url is not None:
        steps = first + steps
    port = _free_port()
    script = [
        "set -eumo pipefail",
        "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT",
        f"touch {shlex.quote(str(kept / 'none'))}",
    ]
    for number, block in enumerate(steps):
        text = block.text.replace(":8000", f":{port}")
        if database_url is not None:
            text = text.replace(POSTGRES, database_url)
        if block.title:
            source = kept / f"{number}.file"
            source.write_text(text, encoding="utf-8")
            target = shlex.quote(block.title)
            script.append(f'mkdir -p "$(dirname {target})"; cp {shlex.quote(str(source))} {target}')
        else:
            output = shlex.quote(str(kept / f"{number}.output"))
            script.append(f"echo {block.line} > {shlex.quote(str(kept / 'line'))}")
            script.append(f"{{\n{text}}} > {output}")
    (kept / "script").write_text("\n".join(script) + "\n", encoding="utf-8")
    done, log = _bash(kept / "script", folder, environment(port, commands))
    where = (kept / "line").read_text().strip() if (kept / "line").exists() else "?"
    tail = "\n".join(
        (kept / f"{number}.output").read_text(errors="replace")
        for number in range(len(steps))
        if (kept / f"{number}.output").exists()
    )[-4000:]
    assert done == 0, f"{page.relative_to(ROOT)}:{where} ends with {done}\n{tail}\n{log}"
    _compare(page, steps, kept)


def answers(command: str, folder: Path) -> None:
    """Start a server by the line that a page shows; it serves the application that ships."""
    port = _free_port()
    line = re.sub(r"(?<=[: ])8000\b", str(port), command).replace("notes:app", "ferrule.asgi:app")
    line = line.replace("0.0.0.0", "127.0.0.1")
    work = folder / str(port)
    (work / ".blocks").mkdir(parents=True)
    script = work / ".blocks" / "script"
    script.write_text(
        f"{line} &\n"
        f"for _ in $(seq 200); do sleep 0.2; jobs %1 >/dev/null || exit 1\n"
        f"if curl -fs -o answer http://127.0.0.1:{port}/api/v1/health; then exit 0; fi\n"
        "done; exit 1\n"
    )
    done, log = _bash(script, work, environment(port))
    assert done == 0, f"{line}\n{log}"


def _compare(page: Path, steps: list[Block], kept: Path) -> None:
    printed = {
        block.line: kept / f"{number}.output"
        for number, block in enumerate(steps)
        if not block.title
    }
    before: Block | None = None
    problems: list[str] = []
    for block in blocks(page):
        if "output" in block.flags and before is not None and before.line in printed:
            given = printed[before.line].read_text(encoding="utf-8").strip()
            pattern = ".*".join(map(re.escape, block.text.strip().split("…")))
            if not re.fullmatch(pattern, given, re.DOTALL):
                problems.append(f"{block}: this was printed:\n{given}")
        before = block
    assert not problems, "\n".join(problems)


def starts_a_server(page: Path) -> bool:
    return any(block.language == "sh" and "serve" in block.text for block in blocks(page))


def environment(port: int = 0, commands: Path | None = None) -> dict[str, str]:
    """The environment of a newcomer: none of our settings, the commands of this environment."""
    # Variables that were given to the `make` that runs the tests are no newcomer's either.
    makes = ("MAKE", "MFLAGS", "ARGS")
    ours = ("FERRULE_", "PYTEST_", "COV_", "DATABASE_URL", "REDIS_URL", "PORT", *makes)
    found = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    found |= {k: v for k, v in os.environ.items() if k.startswith("FERRULE_TEST_")}
    # Where bytecode is not to be written, each command would compile all libraries again.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    path = [*([commands] if commands else []), Path(sys.executable).parent, os.environ["PATH"]]
    return found | {
        "FERRULE_PORT": str(port),
        "PATH": os.pathsep.join(map(str, path)),
        "PYTHONPYCACHEPREFIX": str(ROOT / ".pytest_cache" / "bytecode"),
        "PYTHONUNBUFFERED": "1",
        # A newcomer has not what we test with, and it takes long to import.
        "PYTEST_ADDOPTS": "-p no:schemathesis -p no:hypothesispytest -p no:xdist",
    }


def _bash(script: Path, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    bash = shutil.which("bash")
    assert bash, "bash runs the pages"
    with (folder / ".blocks" / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [bash, script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            for pid in _session(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        return status, log.read()[-4000:]


def _session(leader: int) -> Iterator[int]:
    """The processes that a script started and left behind."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == leader:
                yield int(entry.name)
        except ProcessLookupError:
            continue


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def migrate(folder: Path, commands: Path) -> None:
    """Write the tutorial's migration, by its commands."""
    for command in ("db revision -m notes --module notes", "db upgrade"):
        subprocess.run(
            [commands / "ferrule", *command.split()],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            check=True,
        )
