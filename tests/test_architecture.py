"""What keeps the parts apart: imports run kit ← modules ← app, without circles."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import ferrule

SOURCE = Path(ferrule.__file__).parent
TESTS = Path(__file__).parent
ROOMS = ("db", "http", "resources", "security", "observability", "mail", "streams", "jobs")
KIT_FILES = ("errors", "kit", "actor", "dependencies", "module", "schemas", "settings")
ABOVE_THE_KIT = ("ferrule.modules", "ferrule.app", "ferrule.cli", "ferrule.testing", "ferrule.asgi")
CONTRACTS = (
    *("ferrule", "ferrule.db", "ferrule.resources", "ferrule.schemas", "ferrule.streams"),
    "ferrule.testing",
)
ACROSS = {Path("benchmarks"), Path("drills"), Path("drills/streams"), Path("hostile")}
"""Tests of the whole, which stand beside the mirror."""
LAZY = {
    ("ferrule.jobs.cli", "ferrule.cli.application"): "the command loads the application",
    ("ferrule.modules.auth.cli", "ferrule.cli.application"): "the command loads the application",
}
"""Imports inside of functions that go against the order, each with its reason."""


@dataclass(frozen=True)
class Import:
    """`source` imports `target`; `lazy` inside of a function."""

    source: str
    target: str
    lazy: bool
    line: int


def _name(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _files() -> dict[str, Path]:
    return {_name(file): file for file in sorted(SOURCE.rglob("*.py"))}


@cache
def _imports() -> tuple[Import, ...]:
    return tuple(found for name, file in _files().items() for found in _imports_of(name, file))


def _imports_of(name: str, file: Path) -> Iterator[Import]:
    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from walk(other, lazy)
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(name, alias.name, lazy, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno}: import by the whole name"
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    target = whole if whole in _files() else str(child.module)
                    yield Import(name, target, lazy, child.lineno)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, lazy or function)

    for found in walk(ast.parse(file.read_text(encoding="utf-8")), False):
        if found.target.partition(".")[0] == "ferrule":
            yield found


def _in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_kit(name: str) -> bool:
    return _in(name, *(f"ferrule.{part}" for part in (*ROOMS, *KIT_FILES)))


def _module_of(name: str) -> str | None:
    found = re.match(r"ferrule\.modules\.(\w+)", name)
    return found and found[1]


def _told(wrong: list[Import]) -> str:
    return "\n".join(f"{each.source}:{each.line} imports {each.target}" for each in wrong)


def test_every_file_has_its_place_in_the_order() -> None:
    above = (*ABOVE_THE_KIT, "ferrule")
    placed = [
        name for name in _files() if _is_kit(name) or _in(name, *above[:-1]) or name == above[-1]
    ]
    assert placed == list(_files())


def test_the_kit_imports_nothing_that_stands_on_it() -> None:
    wrong = [
        each
        for each in _imports()
        if _is_kit(each.source)
        and (_in(each.target, *ABOVE_THE_KIT) or each.target == "ferrule")
        and (each.source, each.target) not in LAZY
    ]
    assert not wrong, _told(wrong)


def test_modules_import_the_kit_and_what_required_modules_export() -> None:
    requires = {
        name: set(importlib.import_module(f"ferrule.modules.{name}").module.requires)
        for name in _module_names()
    }
    wrong = []
    for each in _imports():
        source, target = _module_of(each.source), _module_of(each.target)
        if source is None or source == target or (each.source, each.target) in LAZY:
            continue
        if target is not None:
            of_its_package = each.target == f"ferrule.modules.{target}"
            if target not in requires[source] or not of_its_package:
                wrong.append(each)
        elif each.target == "ferrule":
            continue  # the public names, by which a user's module is written, too
        elif each.source.endswith(".testing") and _in(each.target, "ferrule.testing"):
            continue  # what a module gives to tests stands on what tests are made of
        elif not _is_kit(each.target):
            wrong.append(each)
    assert not wrong, _told(wrong)


def test_exceptions_are_lazy_and_still_needed() -> None:
    found = {(each.source, each.target): each.lazy for each in _imports()}
    for exception in LAZY:
        assert found.get(exception), f"{exception}: the import is gone, or is not inside a function"


def test_no_circles() -> None:
    imports: dict[str, set[str]] = {name: set() for name in _files()}
    for each in _imports():
        if not each.lazy and each.source != each.target and each.target in imports:
            imports[each.source].add(each.target)
    circle = _circle(imports)
    assert not circle, " → ".join(circle)


def test_files_are_small() -> None:
    sizes = {
        name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in _files().items()
    }
    assert {name: size for name, size in sizes.items() if size > 600} == {}


def test_no_file_is_named_after_nothing() -> None:
    for name in _files():
        assert not {"utils", "helpers", "common", "base_service", "misc"} & set(name.split("."))


@pytest.mark.parametrize("name", CONTRACTS)
def test_public_contracts_are_documented(name: str) -> None:
    package = importlib.import_module(name)
    for public in getattr(package, "__all__", ()):
        value = getattr(package, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{public} has no docstring"
            assert not value.__doc__.startswith(f"{public}("), (
                f"{name}.{public}: written by dataclass"
            )


def test_tests_mirror_the_source() -> None:
    rooms = {
        Path(*name.split(".")[1:]) for name, file in _files().items() if file.name == "__init__.py"
    }
    folders = {file.parent.relative_to(TESTS) for file in TESTS.rglob("test_*.py")} - ACROSS
    assert folders <= rooms, f"no such part of ferrule: {sorted(map(str, folders - rooms))}"
    without = {room for room in rooms if not any(_within(folder, room) for folder in folders)}
    assert not without, f"parts without tests: {sorted(map(str, without))}"


def _within(folder: Path, room: Path) -> bool:
    """Tests stand in the folder of a room's name; those of a sub-package may stand there, too."""
    return folder == room or room in folder.parents or (folder != Path() and folder in room.parents)


def _module_names() -> list[str]:
    return sorted(folder.parent.name for folder in (SOURCE / "modules").glob("*/__init__.py"))


def _circle(imports: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for target in sorted(imports[name]):
                if found := visit(target, (*path, name)):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(imports) if (found := visit(name, ()))), [])
