"""Finds the application that a command works on."""

import importlib
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values

from ferrule.errors import ConfigurationError

if TYPE_CHECKING:
    from ferrule.app import Ferrule

DEFAULT = "ferrule.asgi:app"


def name() -> str:
    """The import string of the application.

    `FERRULE_APP` in the environment or `.env`, `[tool.ferrule] app` in `./pyproject.toml`, or the
    server as it comes.
    """
    return (
        os.environ.get("FERRULE_APP")
        or dotenv_values(".env").get("FERRULE_APP")
        or _in_pyproject()
        or DEFAULT
    )


def load() -> "Ferrule":
    """Import the application, from the current folder too. `ConfigurationError` says what to do."""
    text = name()
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            f"FERRULE_APP={text}: write it as package.module:app, the name of a variable that "
            f"holds the application."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        # Only the application's own absence is a matter of its name.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"FERRULE_APP={text}: there is no module {error.name!r}, seen from this folder."
        ) from None
    except AttributeError as error:
        if error.name != attribute.rpartition(".")[2]:
            raise
        raise ConfigurationError(
            f"FERRULE_APP={text}: {module_name} has no {attribute!r}."
        ) from None
    return _checked(text, found)


def _checked(text: str, found: Any) -> "Ferrule":
    from ferrule.app import Ferrule

    if not isinstance(found, Ferrule):
        raise ConfigurationError(
            f"FERRULE_APP={text}: it is {type(found).__name__}, not an application of "
            f"ferrule.create_app()."
        )
    return found


def _in_pyproject() -> str | None:
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"pyproject.toml cannot be read: {error}") from None
    return project.get("tool", {}).get("ferrule", {}).get("app")
