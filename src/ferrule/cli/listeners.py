"""The processes that listen on a port, told by Linux."""

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"


def listeners(port: int) -> list[int]:
    """Who listens on a port, as far as we may see it; a parent that leaves it to children not."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    found = [
        int(process.name)
        for process in PROC.glob("[0-9]*")
        if sockets and not sockets.isdisjoint(_files(process))
    ]
    parents = {_parent(pid) for pid in found}
    return sorted(pid for pid in found if pid not in parents)


def _inodes(port: int) -> Iterator[str]:
    """Of the sockets that listen: lines of `number: address:port remote:port state … inode`."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _files(process: Path) -> Iterator[str]:
    try:
        for file in (process / "fd").iterdir():
            yield str(file.readlink())
    except OSError:
        # It has ended, or is somebody else's.
        return


def _parent(pid: int) -> int:
    try:
        # Behind the name, which may hold anything: the state and the parent.
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
