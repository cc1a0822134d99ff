"""`ferrule db`: migrations."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ferrule.db.migrations import Migrations

app = typer.Typer(
    name="db", no_args_is_help=True, rich_markup_mode=None, help="Migrate the database."
)

TARGET = "heads, base, a revision such as items_0002, or relative to a module: items@-1."


@app.command()
def upgrade(target: Annotated[str, typer.Argument(help=TARGET)] = "heads") -> None:
    """Run the migrations that are pending."""
    done = asyncio.run(_migrations().upgrade(target))
    typer.echo("\n".join(f"Upgraded to {each}" for each in done) or "Nothing to do: up to date.")


@app.command(context_settings={"ignore_unknown_options": True})
def downgrade(target: Annotated[str, typer.Argument(help=TARGET)]) -> None:
    """Undo the migrations after TARGET, with what they stored."""
    done = asyncio.run(_migrations().downgrade(target))
    typer.echo("\n".join(f"Undone: {each}" for each in done) or "Nothing to do.")


@app.command()
def current() -> None:
    """Show the revisions of the database, and whether they are the code's."""
    status = asyncio.run(_migrations().status())
    typer.echo(f"database: {', '.join(status.current) or 'empty'}")
    if status.unknown:
        typer.echo(f"unknown to this code: {', '.join(status.unknown)}")
    if status.pending:
        typer.echo(f"pending: {', '.join(status.pending)}")
    if status.up_to_date:
        typer.echo("up to date")


@app.command()
def history() -> None:
    """List the migrations of all modules, in their order."""
    for revision in _migrations().history():
        parents = ", ".join(revision.parents)
        typer.echo(
            f"{revision.id}  {revision.message}" + (f"  (after {parents})" if parents else "")
        )


@app.command()
def revision(
    message: Annotated[str, typer.Option("--message", "-m", help="What it does, in a line.")],
    module: Annotated[str | None, typer.Option(help="Its module; unset: the one changed.")] = None,
    empty: Annotated[bool, typer.Option("--empty", help="For a migration of data.")] = False,
) -> None:
    """Write a migration from the difference between the models and the database."""
    path = asyncio.run(_migrations().revision(message, module=module, empty=empty))
    typer.echo(f"Wrote {os.path.relpath(path)}: read it, and try upgrade and downgrade.")


@app.command()
def check() -> None:
    """Compare the models with the database's tables; exit status 1 if they differ."""
    differences = asyncio.run(_migrations().check())
    typer.echo("\n".join(differences) or "Models and database agree.")
    raise typer.Exit(1 if differences else 0)


def _migrations() -> "Migrations":
    from ferrule.cli import application
    from ferrule.db.migrations import Migrations

    loaded = application.load()
    settings = loaded.settings
    return Migrations(settings.resolved_database_url, settings.database, loaded.modules)
