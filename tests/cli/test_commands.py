"""The command line: what it prints, and the status it ends with."""

import json
import sys
from pathlib import Path

import pytest

from ferrule.cli import main

APP = """
import typer
from ferrule.app import create_app
from ferrule.module import Module

commands = typer.Typer(name="greet")

@commands.command()
def hello() -> None:
    print("hello from a module")

@commands.command()
def other() -> None:
    pass

app = create_app(modules=[Module(name="greetings", commands=lambda: commands)])
number = 3
"""


class Ferrule:
    """Runs commands on an application in the folder; `out` and `err` are what they printed."""

    def __init__(
        self, name: str, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.name = name
        self._patch = patch
        self._capture = capture

    def __call__(self, *arguments: str, **environment: str) -> int:
        with self._patch.context() as patch:
            patch.setenv("FERRULE_APP", f"{self.name}:app")
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["ferrule", *arguments])
            patch.setattr(sys, "path", list(sys.path))
            sys.modules.pop(self.name, None)
            with pytest.raises(SystemExit) as end:
                main()
        self.out, self.err = self._capture.readouterr()
        return int(end.value.code or 0)


@pytest.fixture
def ferrule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ferrule:
    name = "toy_application"
    (tmp_path / f"{name}.py").write_text(APP)
    return Ferrule(name, monkeypatch, capsys)


def test_help_names_the_commands(ferrule: Ferrule) -> None:
    assert ferrule("--help") == 0
    for command in ("serve", "openapi", "settings", "db"):
        assert f"\n  {command} " in ferrule.out


def test_a_module_brings_commands(ferrule: Ferrule) -> None:
    assert ferrule("greet", "hello") == 0
    assert ferrule.out == "hello from a module\n"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["db", "nonsense"], ["db", "downgrade"], ["serve", "--port", "70000"]],
)
def test_wrong_use_ends_with_2(ferrule: Ferrule, arguments: list[str]) -> None:
    assert ferrule(*arguments) == 2
    assert "Usage: ferrule" in ferrule.err


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("toy_application", "write it as package.module:app"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("toy_application:nothing", "toy_application has no 'nothing'"),
        ("toy_application:number", "it is int, not an application of ferrule.create_app()"),
    ],
)
def test_an_application_that_is_not_there(ferrule: Ferrule, name: str, problem: str) -> None:
    assert ferrule("openapi", FERRULE_APP=name) == 2
    assert ferrule.err.startswith(f"Error: FERRULE_APP={name}: ")
    assert problem in ferrule.err


def test_pyproject_names_the_application(ferrule: Ferrule, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.ferrule]\napp = "toy_application:app"\n')
    assert ferrule("greet", "hello", FERRULE_APP="") == 0
    (tmp_path / "pyproject.toml").write_text("[tool")
    assert ferrule("greet", "hello", FERRULE_APP="") == 2


def test_openapi_is_json(ferrule: Ferrule) -> None:
    assert ferrule("openapi") == 0
    assert json.loads(ferrule.out)["openapi"].startswith("3.1")


def test_settings_show_values_and_sources_without_secrets(ferrule: Ferrule, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FERRULE_LOG_LEVEL=warning\n")
    secret = "a secret that must not be printed 0123456789"
    url = "postgresql://ann:hunter2@db.example:5433/shop?sslmode=require"
    assert ferrule("settings", "--json", FERRULE_SECRET_KEY=secret, DATABASE_URL=url) == 0
    rows = {row["variable"]: row for row in json.loads(ferrule.out)}
    assert secret not in ferrule.out
    assert "hunter2" not in ferrule.out
    assert "ann" not in rows["FERRULE_DATABASE_URL"]["value"]
    assert rows["FERRULE_DATABASE_URL"]["value"] == "postgresql://db.example:5433/********"
    assert rows["FERRULE_DATABASE_URL"]["source"] == "environment DATABASE_URL"
    assert rows["FERRULE_LOG_LEVEL"]["source"] == ".env FERRULE_LOG_LEVEL"
    assert rows["FERRULE_SECRET_KEY"]["value"] == "********"
    assert rows["FERRULE_HTTP__MAX_BODY"]["value"] == "1048576"
    assert rows["FERRULE_HTTP__MAX_BODY"]["type"] == "integer ≥ 0 ≤ 1099511627776"
    assert all(row["meaning"] for row in rows.values())
    assert ferrule("settings") == 0
    assert "FERRULE_PORT = 8000\n    Port it listens on.\n" in ferrule.out


def test_a_refused_setting_ends_with_2_and_no_traceback(ferrule: Ferrule) -> None:
    assert ferrule("settings", FERRULE_PROT="8000") == 2
    assert "FERRULE_PROT: there is no such setting; did you mean FERRULE_PORT?" in ferrule.err
    assert "Traceback" not in ferrule.err


def test_several_workers_are_refused_on_sqlite(ferrule: Ferrule) -> None:
    assert ferrule("serve", FERRULE_WORKERS="2") == 2
    assert "SQLite has one writer" in ferrule.err


def test_db_on_the_shipped_modules(ferrule: Ferrule) -> None:
    app = {"FERRULE_APP": "ferrule.asgi:app"}
    assert ferrule("db", "check", **app) == 2
    assert "ferrule db upgrade" in ferrule.err
    assert ferrule("db", "upgrade", **app) == 0
    assert "Upgraded to items_0001" in ferrule.out
    assert ferrule("db", "check", **app) == 0
    assert ferrule("db", "current", **app) == 0
    assert ferrule.out.endswith("up to date\n")
    assert ferrule("db", "history", **app) == 0
    assert "items_0001  " in ferrule.out
    assert ferrule("db", "revision", "-m", "Nothing", **app) == 2
    assert "Nothing changed" in ferrule.err
    assert ferrule("db", "downgrade", "base", **app) == 0
    assert ferrule("db", "downgrade", "nowhere", **app) == 2
