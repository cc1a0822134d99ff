"""What Linux tells of processes: their CPU time and memory, and how busy the machine is."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROC = Path("/proc")
if not PROC.joinpath("stat").exists():
    raise SystemExit("The benchmarks read /proc: run them on Linux.")
TICKS = os.sysconf("SC_CLK_TCK")
_CORES = sorted(os.sched_getaffinity(0))
SERVER, LOAD = {_CORES[0]}, {_CORES[min(1, len(_CORES) - 1)]}
"""The core of the server, and that of the load and of PostgreSQL; the same if there is but one."""


def _stat(pid: int) -> list[str]:
    """The fields of a process behind its name, from its state on; none if it has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(root: int) -> set[int]:
    """A process and those that it started, and so on."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = set[int](), [root]
    while todo:
        found.add(pid := todo.pop())
        todo.extend(children.get(pid, []))
    return found


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU that these processes, and those of their children that ended, have had."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in pids) / TICKS


def busy() -> float:
    """Seconds of CPU that were not idle, of all cores; also what the hypervisor kept for others."""
    user, nice, system, _, _, *others = (
        int(value) for value in (PROC / "stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(others)) / TICKS


def memory(pids: Iterable[int]) -> float:
    """MiB of these processes, what they share counted once (PSS)."""
    total = 0
    for pid in pids:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text()
        total += int(re.findall(r"^Pss: *(\d+) kB", rollup, re.MULTILINE)[0])
    return total / 1024


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def command(pid: int) -> str:
    """The command line, which PostgreSQL's backends use to tell what they serve."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


@contextmanager
def pinned(pids: Iterable[int], cores: set[int]) -> Iterator[bool]:
    """These processes, and those that they start, on these cores until the block ends.

    Yields False if that is not permitted.
    """
    before: dict[int, set[int]] = {}
    permitted = True
    for pid in pids:
        try:
            before[pid] = os.sched_getaffinity(pid)
            os.sched_setaffinity(pid, cores)
        except ProcessLookupError:
            before.pop(pid, None)
        except PermissionError:
            permitted = False
    try:
        yield permitted
    finally:
        for pid, former in before.items():
            try:
                os.sched_setaffinity(pid, former)
            except (ProcessLookupError, PermissionError):
                continue
