"""`ferrule user create`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ferrule.app import Ferrule, create_app
from ferrule.cli import application as finder
from ferrule.db import Database
from ferrule.modules.auth import User, module
from ferrule.modules.auth.cli import commands
from ferrule.testing import TestDatabases

from . import PASSWORD


@pytest.fixture
def run(
    database_kind: str,
    databases: TestDatabases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Runs `ferrule user` on an empty database: `run("create", "ann@example.com", stdin="…")`."""
    app = create_app(modules=[module])
    app.configure(asyncio.run(databases.empty(app, database_kind, tmp_path)))
    monkeypatch.setattr(finder, "load", lambda: app)

    def run(*arguments: str, stdin: str = PASSWORD + "\n") -> Any:
        return CliRunner().invoke(commands(), list(arguments), input=stdin)

    run.app = app  # type: ignore[attr-defined]
    return run


def stored(app: Ferrule) -> list[User]:
    from sqlalchemy import select

    async def ask() -> list[User]:
        async with app.opened() as kit, kit[Database].read() as session:
            return list((await session.execute(select(User))).scalars())

    return asyncio.run(ask())


def test_a_user_is_made(run: Any) -> None:
    made = run("create", "Ann@Example.com", "--name", "Ann")
    assert made.exit_code == 0, made.output
    assert "ann@example.com" in made.output
    assert PASSWORD not in made.output
    (ann,) = stored(run.app)
    assert (ann.email, ann.name, ann.roles, ann.verified) == ("ann@example.com", "Ann", [], True)
    assert str(ann.password_hash).startswith("$argon2id$")


def test_an_administrator_is_made(run: Any) -> None:
    assert run("create", "root@example.com", "--admin").exit_code == 0
    assert stored(run.app)[0].roles == ["admin"]


@pytest.mark.parametrize(
    ("email", "password", "told"),
    [
        ("ann", PASSWORD, "email: This is not an e-mail address."),
        ("ann@example.com", "tooshort", "at least 15 characters"),
        ("ann@example.com", "", "password: "),
        ("ann@example.com", "x" * 1025, "password: "),
    ],
)
def test_what_is_refused_is_told_and_not_shown(
    run: Any, email: str, password: str, told: str
) -> None:
    result = run("create", email, stdin=password + "\n")
    assert result.exit_code == 2
    assert told in result.output
    assert not password or password not in result.output
    assert stored(run.app) == []


def test_a_taken_address_is_told(run: Any) -> None:
    run("create", "ann@example.com")
    again = run("create", "ann@example.com")
    assert again.exit_code == 2
    assert "There is an account with this e-mail address." in again.output
