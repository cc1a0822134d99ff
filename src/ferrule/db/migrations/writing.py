"""Writes a module's next migration."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection

from ferrule.db.migrations.differences import comparison
from ferrule.db.migrations.revisions import Revisions
from ferrule.errors import ConfigurationError
from ferrule.module import Module

if TYPE_CHECKING:
    from ferrule.db.migrations.migrations import Migrations

ID_LENGTH = 32
"""Characters of `alembic_version.version_num`."""


def write_revision(
    migrations: "Migrations", module: Module, message: str, connection: Connection, *, empty: bool
) -> Path:
    """Write it into the module's folder, in the module's branch of the history; the new file."""
    from alembic import command

    revisions = migrations.revisions
    number = len(revisions.of(module.name)) + 1
    name = f"{module.name}_{number:04d}"
    if len(name) > ID_LENGTH:
        raise ConfigurationError(
            f"The module's name {module.name!r} is too long for a revision id: "
            f"at most {ID_LENGTH - 5} characters."
        )
    folder = cast(Path, module.migrations)
    folder.mkdir(exist_ok=True)
    heads = revisions.heads(module.name)
    written = command.revision(
        migrations.config(
            connection,
            comparison([module], revisions),
            file_template=f"{number:04d}_%(slug)s",
        ),
        message,
        autogenerate=not empty,
        rev_id=name,
        head=heads[0] if heads else "base",
        branch_label=None if heads else module.name,
        version_path=folder,
        depends_on=_depends_on(module, migrations.modules, revisions),  # pyright: ignore[reportArgumentType]
        process_revision_directives=None if empty else _drop_if_empty,
    )
    scripts = written if isinstance(written, list) else [written]
    script = scripts[0] if scripts else None
    if script is None:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise ConfigurationError(
            f"Nothing changed in module {module.name!r}: models and database agree. For a "
            f"migration of data, add --empty."
        )
    _format(Path(script.path))
    return Path(script.path)


def _depends_on(
    module: Module, modules: Sequence[Module], revisions: Revisions
) -> list[str] | None:
    """The heads of the modules it requires, so far as the branch does not stand on them yet."""
    known = revisions.with_ancestors(revisions.heads(module.name))
    needed = [head for name in _required(module, modules) for head in revisions.heads(name)]
    implied = {parent for head in needed for parent in revisions.with_ancestors([head]) - {head}}
    return [head for head in needed if head not in known and head not in implied] or None


def _required(module: Module, modules: Sequence[Module]) -> Iterator[str]:
    by_name = {each.name: each for each in modules}
    seen: list[str] = []
    todo = list(module.requires)
    while todo:
        name = todo.pop(0)
        if name not in seen:
            seen.append(name)
            todo.extend(by_name[name].requires)
    yield from seen


def _drop_if_empty(context: Any, revision: Any, directives: list[Any]) -> None:
    if directives[0].upgrade_ops.is_empty():
        directives.clear()


def _format(path: Path) -> None:
    """In the project's own style, where it uses ruff; the file is sound without."""
    if importlib.util.find_spec("ruff") is None:
        return
    ruff = [sys.executable, "-m", "ruff"]
    for arguments in (["check", "--fix", "--select", "I,F401"], ["format"]):
        subprocess.run([*ruff, *arguments, "--quiet", path], check=False, cwd=path.parent)  # noqa: S603
