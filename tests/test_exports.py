"""What an installation offers: the public names, the types, and all files of the package."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ferrule

ROOT = Path(__file__).parents[1]
SOURCE = Path(ferrule.__file__).parent
PUBLIC = (
    "ferrule",
    "ferrule.db",
    "ferrule.db.migrations",
    "ferrule.modules",
    "ferrule.modules.auth",
    "ferrule.modules.items",
    "ferrule.resources",
    "ferrule.schemas",
    "ferrule.testing",
)


def _version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["version"]


@pytest.mark.parametrize("name", PUBLIC)
def test_exports_are_sorted_complete_and_there(name: str) -> None:
    package = importlib.import_module(name)
    exported = list(package.__all__)
    assert exported == sorted(exported)
    for each in exported:
        assert hasattr(package, each), f"{name}.{each}"
    bound = _bound(Path(str(package.__file__)), facade=name != "ferrule.schemas")
    # A file of code also has names for the rooms beside it; a package hands on all it imports.
    assert set(exported) <= bound if name == "ferrule.schemas" else set(exported) == bound


def _bound(file: Path, *, facade: bool) -> set[str]:
    """The public names of a file: what it defines, and what a package imports to hand it on."""
    names: set[str] = set()
    body = ast.parse(file.read_text(encoding="utf-8")).body
    # What is imported when it is asked for is told to type checkers alone.
    lazily = [part for node in body if isinstance(node, ast.If) for part in node.body]
    for node in (*body, *lazily):
        if (
            isinstance(node, ast.ImportFrom)
            and facade
            and (node.module or "").startswith("ferrule")
        ):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    # A module puts its parts together in __init__.py; only a part of them is for others.
    if file.parent.parent.name == "modules" or file.parent.name == "modules":
        return set(importlib.import_module(_dotted(file)).__all__)
    return {name for name in names if not name.startswith("_")}


def _dotted(file: Path) -> str:
    return ".".join(file.parent.relative_to(SOURCE.parent).parts)


def test_the_version_is_the_newest_release_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    released = headings[1:]
    assert all(date for _, date in released)
    assert released[0][0] == _version()
    numbers = [tuple(map(int, version.split("."))) for version, _ in released]
    assert numbers == sorted(numbers, reverse=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    source = {
        file.relative_to(SOURCE.parent).as_posix()
        for file in SOURCE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    packed = {name for name in wheel.namelist() if name.startswith("ferrule/")}
    assert packed == source
    for needed in (
        "ferrule/py.typed",
        "ferrule/db/migrations/script.py.mako",
        "ferrule/http/assets/swagger-ui-bundle.js",
        "ferrule/modules/auth/migrations/0001_users_and_logins.py",
        "ferrule/modules/items/migrations/0001_items.py",
    ):
        assert needed in packed


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    information = f"ferrule-{_version()}.dist-info"
    names = set(wheel.namelist())
    assert f"{information}/licenses/LICENSE" in names
    metadata = wheel.read(f"{information}/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata
    entries = wheel.read(f"{information}/entry_points.txt").decode()
    assert "ferrule = ferrule.cli:main" in entries
    assert "ferrule = ferrule.testing.plugin" in entries
