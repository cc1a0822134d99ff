"""What a run was made with: the date, the machine without its name, the versions."""

import os
import platform
import re
import sqlite3
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks import postgres, processes

PACKAGES = (
    "ferrule", "fastapi", "starlette", "uvicorn", "sqlalchemy", "asyncpg", "aiosqlite", "pydantic",
    "django", "djangorestframework", "psycopg", "granian", "litestar", "advanced-alchemy",
    "procrastinate", "saq", "redis", "uvloop", "websockets", "python-socketio", "channels",
    "channels-redis",
)  # fmt: skip


def about(postgres_url: str | None) -> Iterator[str]:
    """Sentences for the head of the report."""
    databases = [f"SQLite {sqlite3.sqlite_version}"]
    if postgres_url is not None:
        databases.insert(0, f"PostgreSQL {postgres.version(postgres_url)}")
    yield (
        f"{time.strftime('%Y-%m-%d')}, Linux, {_processor()} ({os.cpu_count()} cores), "
        f"Python {platform.python_version()}, {', '.join(databases)}."
    )
    yield ", ".join(f"{name} {version(name)}" for name in PACKAGES) + "."
    if processes.SERVER == processes.LOAD:
        yield "There is but one core: the server shares it with the load, and no rate means much."


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
