"""The commands. What a command needs is imported when it runs: `--help` answers at once."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ferrule.cli import db


class _Commands(TyperGroup):
    """Knows our own commands; for any other the application is loaded, and its modules asked."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            self.commands.update(_of_modules())
            command = super().get_command(ctx, cmd_name)
        return command


app = typer.Typer(
    name="ferrule",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Runs a Ferrule application: FERRULE_APP=package.module:app, [tool.ferrule] app in "
    "pyproject.toml, or the server as it comes.",
    epilog="Modules of the application add commands of their own, such as `ferrule user`.",
)
app.add_typer(db.app)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65535)] = None,
    workers: Annotated[int | None, typer.Option(help="Server processes.", min=1)] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start again when code changes.")
    ] = False,
) -> None:
    """Run the server. Options win over FERRULE_HOST, FERRULE_PORT and FERRULE_WORKERS."""
    from ferrule.cli.serve import serve

    raise typer.Exit(serve(host=host, port=port, workers=workers, reload=reload))


@app.command()
def worker(
    concurrency: Annotated[
        int | None, typer.Option(help="Jobs that run at the same time.", min=1, max=1000)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port that answers /metrics.", min=0, max=65535)
    ] = None,
) -> None:
    """Work on jobs beside the server, on PostgreSQL; as many as you like, on any machine."""
    from ferrule.cli.worker import work

    raise typer.Exit(work(concurrency=concurrency, metrics_port=metrics_port))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document as JSON."""
    from ferrule.cli import application

    typer.echo(json.dumps(application.load().openapi(), indent=2))


@app.command()
def settings(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show every setting: type, default, meaning, present value and its source."""
    from ferrule.cli import application
    from ferrule.cli.settings import listed, rendered

    rows = listed(application.load().settings)
    typer.echo(json.dumps(rows, indent=2) if as_json else rendered(rows))


@app.command()
def profile(
    pid: Annotated[int | None, typer.Option(help="Process of the server.", min=1)] = None,
    port: Annotated[
        int | None, typer.Option(help="Port by which it is found instead.", min=1, max=65535)
    ] = None,
    seconds: Annotated[int, typer.Option(help="How long to look.", min=1, max=3600)] = 10,
    stacks: Annotated[
        Path | None, typer.Option(help="File for what was seen, which speedscope.app shows.")
    ] = None,
) -> None:
    """Show where the time of a running server goes, by layer. It takes py-spy.

    Without --pid and --port it is the server on FERRULE_PORT.
    """
    from ferrule.cli.profile import profile

    raise typer.Exit(profile(pid=pid, port=port, seconds=seconds, stacks=stacks))


def _of_modules() -> dict[str, Any]:
    from ferrule.cli import application

    parent = typer.Typer(add_completion=False, rich_markup_mode=None)
    parent.callback()(lambda: None)
    for module in application.load().modules:
        if module.commands:
            parent.add_typer(module.commands())
    group: Any = typer.main.get_command(parent)
    return group.commands
