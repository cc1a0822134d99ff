"""The revisions that the code brings, and how a database stands to them.

They are read from the files' assignments without running them: this is done at every start.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferrule.errors import ConfigurationError
from ferrule.module import Module

NAMES = ("revision", "down_revision", "depends_on")


@dataclass(frozen=True, slots=True)
class Revision:
    """One migration. `parents` are the revisions that it follows or depends on."""

    id: str
    module: str
    message: str
    parents: tuple[str, ...]
    path: Path

    @property
    def creates(self) -> frozenset[str]:
        """The tables that it creates."""
        return frozenset(_created_tables(_parsed(self.path)))


@dataclass(frozen=True, slots=True)
class Status:
    """How a database stands to the code, in revision ids.

    `current` are the ids in the database, `pending` those that an upgrade would run (in its order),
    `unknown` those in the database that the code does not have: a newer version was here.
    """

    current: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def up_to_date(self) -> bool:
        return not self.pending and not self.unknown

    def refuse_unknown(self) -> None:
        """`ConfigurationError` for a database that a newer version has upgraded."""
        if self.unknown:
            raise ConfigurationError(
                f"The database holds revisions that this code does not know: "
                f"{', '.join(self.unknown)}. A newer version has upgraded it: start that version, "
                f"or add the module that is missing. To go back, run `ferrule db downgrade` with "
                f"the newer version first, or restore a backup."
            )


class Revisions:
    """All revisions of the modules, in an order in which they can run."""

    def __init__(self, modules: Iterable[Module]) -> None:
        found: dict[str, Revision] = {}
        folders: dict[Path | None, str] = {}
        for module in modules:
            neighbour = folders.setdefault(module.migrations, module.name)
            if module.migrations is not None and neighbour != module.name:
                raise ConfigurationError(
                    f"The models of the modules {neighbour!r} and {module.name!r} stand in one "
                    f"folder, and so would their migrations: give each module a package of its own."
                )
            for revision in _read_folder(module):
                if revision.id in found:
                    twin = found[revision.id]
                    raise ConfigurationError(
                        f"Two migrations are called {revision.id}: {twin.path.name} of "
                        f"{twin.module}, and {revision.path.name} of {module.name}."
                    )
                found[revision.id] = revision
        self._by_id = found
        self.ordered = tuple(self._in_order())

    def __contains__(self, revision: str) -> bool:
        return revision in self._by_id

    def of(self, module: str) -> list[Revision]:
        """The revisions of one module, oldest first."""
        return [revision for revision in self.ordered if revision.module == module]

    def heads(self, module: str | None = None) -> tuple[str, ...]:
        """The ids that no other revision follows within its module: one for each module."""
        revisions = self.of(module) if module else self.ordered
        followed = {
            parent
            for revision in revisions
            for parent in revision.parents
            if parent in self and self._by_id[parent].module == revision.module
        }
        return tuple(revision.id for revision in revisions if revision.id not in followed)

    def with_ancestors(self, ids: Iterable[str]) -> set[str]:
        """The known ones of the ids, with all that they follow or depend on."""
        seen: set[str] = set()
        todo = [id for id in ids if id in self]
        while todo:
            id = todo.pop()
            if id not in seen:
                seen.add(id)
                todo.extend(parent for parent in self._by_id[id].parents if parent in self)
        return seen

    def status(self, current: Sequence[str]) -> Status:
        """Compare the ids that stand in a database with those of the code."""
        # The database names heads only, and not even those that another head depends on.
        applied = self.with_ancestors(current)
        return Status(
            current=tuple(sorted(current)),
            pending=tuple(item.id for item in self.ordered if item.id not in applied),
            unknown=tuple(sorted(id for id in current if id not in self)),
        )

    def _in_order(self) -> Iterator[Revision]:
        placed: set[str] = set()

        def place(revision: Revision) -> Iterator[Revision]:
            if revision.id in placed:
                return
            placed.add(revision.id)
            for parent in revision.parents:
                if parent in self._by_id:
                    yield from place(self._by_id[parent])
            yield revision

        for revision in self._by_id.values():
            yield from place(revision)


def _read_folder(module: Module) -> Iterator[Revision]:
    if module.migrations is not None and module.migrations.is_dir():
        for path in sorted(module.migrations.glob("*.py")):
            revision = _read_file(path, module.name)
            if revision is not None:
                yield revision


def _read_file(path: Path, module: str) -> Revision | None:
    tree = _parsed(path)
    values: dict[str, Any] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name) and target.id in NAMES:
            values[target.id] = ast.literal_eval(node.value)
    if "revision" not in values:
        return None
    return Revision(
        id=values["revision"],
        module=module,
        message=(ast.get_docstring(tree) or path.stem).partition("\n")[0],
        parents=(*_ids(values.get("down_revision")), *_ids(values.get("depends_on"))),
        path=path,
    )


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=path.name)


def _ids(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _created_tables(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[0] if node.args else None
            if node.func.attr == "create_table" and isinstance(first, ast.Constant):
                yield str(first.value)
