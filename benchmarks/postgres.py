"""The processes of a PostgreSQL server on this machine: to pin them, and to know them for ours."""

import asyncio
import re

import asyncpg

from benchmarks import processes
from benchmarks.data import NAME

CLIENT = re.compile(r"\(\d+\)|\[local\]")
"""Only backends that serve a client have its address in their command lines."""


def postmaster(url: str) -> int | None:
    """The id of the server's first process; None if it runs elsewhere."""

    async def backend() -> int:
        connection = await asyncpg.connect(url)
        try:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            return processes.parent(pid) if "postgres" in processes.command(pid) else 0
        finally:
            await connection.close()

    return asyncio.run(backend()) or None


def version(url: str) -> str:
    """The version of the server; exits with what to do if there is none."""

    async def ask() -> str:
        connection = await asyncpg.connect(url)
        try:
            return (await connection.fetchval("SHOW server_version")).split()[0]
        finally:
            await connection.close()

    try:
        return asyncio.run(ask())
    except (OSError, asyncpg.PostgresError) as error:
        raise SystemExit(
            f"PostgreSQL does not let us in ({error}): name a server on which a database may be "
            f"made by --postgres postgresql://user@host/name, or leave it out by --only sqlite."
        ) from None


def ours(postmaster: int | None) -> set[int]:
    """Its processes but the backends that serve other databases than that of the benchmarks."""
    if postmaster is None:
        return set()
    commands = {pid: processes.command(pid) for pid in processes.tree(postmaster)}
    return {pid for pid, text in commands.items() if NAME in text or not CLIENT.search(text)}
