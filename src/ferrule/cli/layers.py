"""The layers of a request, told by the files of a stack's frames."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

WAITING = "waiting"
OTHER = "other"

_FERRULE = re.escape(Path(__file__).parents[1].as_posix())
_PYTHON = r"(?:/lib/python3[\d.]*t?|/python3\d+/lib)"
_LAYERS: dict[str, str] = {
    "logs and metrics": f"{_FERRULE}/observability/|{_PYTHON}/logging/"
    "|-packages/(?:structlog|prometheus_client)/",
    "edge": rf"{_FERRULE}/(?:app|http/edge|http/envelope)\.py|-packages/starlette/middleware/cors",
    "validation and serialization": rf"{_FERRULE}/(?:http/(?:body|parameters|rows)|schemas)\.py"
    rf"|-packages/(?:fastapi/(?:_compat/|encoders\.py)|pydantic/)|{_PYTHON}/json/",
    "index and plan": f"{_FERRULE}/(?:http/|dependencies)",
    "authentication": f"{_FERRULE}/(?:actor|security/|modules/auth/)"
    "|-packages/(?:jwt|pwdlib|argon2)/",
    "driver": rf"{_FERRULE}/db/(?:pool|postgresql|sqlite|turns)\.py|{_PYTHON}/sqlite3/"
    "|-packages/(?:asyncpg|aiosqlite|sqlalchemy/(?:connectors|dialects))/",
    "sessions and statements": f"{_FERRULE}/db/",
    "SQLAlchemy": "-packages/sqlalchemy/|<sqlalchemy",
    "services": f"{_FERRULE}/(?:modules|resources)/",
    "FastAPI and Starlette": "-packages/(?:fastapi|starlette)/",
    "server": f"{_FERRULE}/cli/|-packages/(?:granian|gunicorn|uvicorn)/|{_PYTHON}/asyncio/runners",
}
"""Patterns of the files of each layer; the first layer that fits counts."""

_LAYER_OF = [(layer, re.compile(pattern, re.IGNORECASE)) for layer, pattern in _LAYERS.items()]
_LIBRARY = re.compile(f"{_FERRULE}/|/(?:site|dist)-packages/|{_PYTHON}/|^<", re.IGNORECASE)
_FRAME = re.compile(r" \((.+?)(?::\d+)?\)\Z")


def shares(stacks: Iterable[str], *, looks: int, package: str = "") -> dict[str, float]:
    """The share of each layer in the time of the event loop's thread, the largest first.

    `stacks` are lines of py-spy's raw format with threads, `looks` how often it looked in all.
    `package` is what the application is imported from, which may be installed as libraries are.
    """
    seen: Counter[str] = Counter()
    for line in stacks:
        stack, _, times = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if "MainThread" in thread:
            seen[layer_of(frames, package)] += int(times)
    seen[WAITING] = max(0, looks - seen.total())
    return {layer: times / max(seen.total(), 1) for layer, times in seen.most_common()}


def layer_of(frames: list[str], package: str = "") -> str:
    """The layer of a stack, which is that of its innermost frame that has one.

    Python's own library, and libraries that are not known here, work for whoever called them.
    """
    return next(_layers(reversed(frames), package), OTHER)


def _layers(frames: Iterable[str], package: str) -> Iterator[str]:
    for frame in frames:
        found = _FRAME.search(frame)
        file = found[1].replace("\\", "/") if found else "<unknown>"
        layer = next((layer for layer, files in _LAYER_OF if files.search(file)), None)
        if layer is not None:
            yield layer
        elif not _LIBRARY.search(file) or (package and f"-packages/{package}" in file):
            yield "services"
