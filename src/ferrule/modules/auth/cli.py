"""`ferrule user …`."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

from pydantic import ValidationError

from ferrule.actor import Actor
from ferrule.db import Database
from ferrule.errors import Error
from ferrule.modules.auth.models import User
from ferrule.modules.auth.schemas import UserCreate
from ferrule.modules.auth.users import ADMIN, create_user

if TYPE_CHECKING:
    import typer

    from ferrule.app import Ferrule


def commands() -> "typer.Typer":
    """The sub-command `user`."""
    import typer

    app = typer.Typer(name="user", help="Accounts.", no_args_is_help=True)

    @app.callback()
    def user() -> None:  # pyright: ignore[reportUnusedFunction]
        """Accounts."""

    @app.command()
    def create(  # pyright: ignore[reportUnusedFunction]
        email: Annotated[str, typer.Argument(help="The e-mail address to sign in with.")],
        admin: Annotated[bool, typer.Option("--admin", help="Make an administrator.")] = False,
        name: Annotated[str, typer.Option(help="The name that others see.")] = "",
    ) -> None:
        """Make an account. The password is asked for, or read from standard input."""
        from ferrule.cli.application import load

        application = load()
        if sys.stdin.isatty():
            password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        else:
            password = sys.stdin.readline().rstrip("\r\n")
        roles = [ADMIN] if admin else []
        try:
            data = UserCreate(email=email, name=name, password=password, roles=roles)
            made = asyncio.run(_create(application, data))
        except (ValidationError, Error) as error:
            typer.echo(_told(error), err=True)
            raise typer.Exit(2) from None
        typer.echo(f"Made {'the administrator' if admin else 'the user'} {made.email}.")

    return app


async def _create(application: "Ferrule", data: UserCreate) -> User:
    async with application.opened() as kit, kit[Database].write() as session:
        return await create_user(session, Actor(kind="cli"), data)


def _told(error: ValidationError | Error) -> str:
    """What was refused, without the value: it may be a password."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        lines = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems]
    else:
        lines = [f"{field['loc'][-1]}: {field['detail']}" for field in error.errors]
    return "\n".join(lines) or str(error.detail if isinstance(error, Error) else error)
