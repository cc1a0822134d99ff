"""`ferrule job …`: look at jobs, cancel them, try failed ones again."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

from sqlalchemy import select

from ferrule.actor import ADMIN, Actor
from ferrule.db.database import Database
from ferrule.db.session import WriteSession
from ferrule.jobs import service
from ferrule.jobs.models import FAILED, FINISHED, RUNNING, UNFINISHED, Job

if TYPE_CHECKING:
    import typer

T = TypeVar("T")

OPERATOR = Actor(kind="cli", roles=frozenset({ADMIN}))


def commands() -> "typer.Typer":
    """The sub-command `job`."""
    import typer

    app = typer.Typer(name="job", help="Durable work.", no_args_is_help=True)

    @app.command("list")
    def list_jobs(  # pyright: ignore[reportUnusedFunction]
        status: Annotated[
            str, typer.Option(help="queued, running, waiting, completed, failed or cancelled.")
        ] = FAILED,
        kind: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
        limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 50,
    ) -> None:
        """List jobs; without options those that failed for good."""
        if status not in (*UNFINISHED, *FINISHED):
            raise typer.BadParameter(f"there is no status {status!r}")
        for job in _run(lambda session: _newest(session, status, kind, limit)):
            reason = f"  {job.error}" if job.error else ""
            typer.echo(
                f"{job.id}  {job.created_at:%Y-%m-%d %H:%M:%S}  {job.kind}  {job.status}"
                f"  {job.attempts}/{job.max_attempts}{reason}"
            )

    @app.command()
    def retry(  # pyright: ignore[reportUnusedFunction]
        ids: Annotated[list[UUID] | None, typer.Argument(help="Ids of jobs.")] = None,
        failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
        kind: Annotated[str | None, typer.Option(help="Of these, those of one name.")] = None,
    ) -> None:
        """Try failed jobs again, as new ones."""
        if bool(ids) == failed:
            raise typer.BadParameter("name jobs, or all with --failed")
        for id in ids or _run(lambda session: _failed(session, kind)):
            again = _run(partial(service.retry, actor=OPERATOR, id=id))
            typer.echo(f"{id} is tried again as {again}.")

    @app.command()
    def cancel(  # pyright: ignore[reportUnusedFunction]
        ids: Annotated[list[UUID], typer.Argument(help="Ids of jobs.")],
    ) -> None:
        """Cancel jobs: those that wait at once, those that run within a second."""
        for id in ids:
            job = _run(partial(service.cancel, actor=OPERATOR, id=id))
            typer.echo(f"{id} is {job.status}{', and will end' if job.status == RUNNING else ''}.")

    return app


def _run(work: Callable[[WriteSession], Awaitable[T]]) -> T:
    from ferrule.cli.application import load

    async def run() -> T:
        async with load().opened() as kit, kit[Database].write() as session:
            return await work(session)

    return asyncio.run(run())


async def _newest(session: WriteSession, status: str, kind: str | None, limit: int) -> list[Job]:
    statement = select(Job).where(Job.status == status).order_by(Job.id.desc()).limit(limit)
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    return list((await session.execute(statement)).scalars())


async def _failed(session: WriteSession, kind: str | None) -> list[UUID]:
    """Those that failed and were not tried again."""
    retried = select(Job.idempotency_key).where(Job.idempotency_key.like("retry of %"))
    known = set((await session.execute(retried)).scalars())
    statement = select(Job.id).where(Job.status == FAILED).order_by(Job.id)
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    found: Any = (await session.execute(statement)).scalars()
    return [id for id in found if f"retry of {id}" not in known]
