"""The documentation is run, and what it says of the code is compared with the code.

Generated parts are renewed by `WRITE_DOCS=1 .venv/bin/pytest tests/test_docs.py -k up_to_date`.
"""

import asyncio
import os
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ferrule.testing import TestDatabases
from tests import documents, preloaded, reference
from tests.documents import ROOT, blocks, pages, prose

DOCS = ROOT / "docs"
README = ROOT / "README.md"
TUTORIAL = DOCS / "tutorial" / "first-module.md"
LESSONS = sorted({*(DOCS / "tutorial").glob("*.md")} - {TUTORIAL})
"""Pages of the tutorial that go on where the first one ends, as guides do."""
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
REFERENCE = [DOCS / "reference" / name for name in ("live.md", "rooms.md")]
"""Pages of the reference whose examples are run, as guides are."""
LIVE_TUTORIAL = DOCS / "tutorial" / "a-live-page.md"
IDS = {"ids": lambda page: page.relative_to(ROOT).as_posix()}


@pytest.fixture
def database_url(database_kind: str, databases: TestDatabases, tmp_path: Path) -> str | None:
    if database_kind == "sqlite":
        return None
    return asyncio.run(databases.create(database_kind, tmp_path, "docs"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder where `make serve` finds what it needs, set up already."""
    folder = tmp_path / "checkout"
    (folder / ".venv").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "requirements").symlink_to(ROOT / "requirements")
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for stamp in (".made", ".runtime"):
        (folder / ".venv" / stamp).touch()
    return folder


class Guides:
    """Runs pages, each in its own project: the tutorial in an empty one, guides where it ends."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor, commands: Path) -> None:
        self._folder, self._pool, self._commands = folder, pool, commands
        self._runs: dict[Path, Future[None]] = {}
        self._notes = folder / "notes"

    def start(self, page: Path) -> None:
        if not self._notes.exists() and page != TUTORIAL:
            documents.write(TUTORIAL, self._notes)
            documents.migrate(self._notes, self._commands)
        if page not in self._runs:
            self._runs[page] = self._pool.submit(self._run, page)

    def __call__(self, page: Path) -> None:
        self.start(page)
        self._runs[page].result()

    def _run(self, page: Path) -> None:
        folder = self._folder / page.stem
        if page != TUTORIAL:
            shutil.copytree(self._notes, folder)
        # The tutorial has the commands as they are installed; so have servers, which get signals.
        real = page == TUTORIAL or documents.starts_a_server(page)
        documents.run(page, folder, commands=None if real else self._commands)


@pytest.fixture(scope="session")
def guides(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Guides]:
    with (
        preloaded.commands(documents.environment()) as commands,
        ThreadPoolExecutor(2) as pool,
    ):
        guides = Guides(tmp_path_factory.mktemp("guides"), pool, commands)
        if "PYTEST_XDIST_WORKER" not in os.environ:
            # Two at a time; with xdist its workers share them.
            for item in request.session.items:
                if item.name.startswith("test_a_guide["):
                    guides.start(item.callspec.params["page"])
        yield guides


def test_the_tour_of_the_readme(checkout: Path, database_url: str | None) -> None:
    documents.run(README, checkout, database_url=database_url)


def test_the_tutorial(guides: Guides) -> None:
    guides(TUTORIAL)


def test_the_tutorial_takes_forty_lines() -> None:
    files = [block for block in blocks(TUTORIAL) if block.title]
    assert [block.title for block in files] == ["notes.py", "pyproject.toml", "test_notes.py"]
    assert sum(len(block.text.splitlines()) for block in files) <= 40


def test_following_a_channel_takes_35_lines() -> None:
    scripts = {block.title: block for block in blocks(LIVE_TUTORIAL) if block.title}
    assert len(scripts["live/live.js"].text.splitlines()) == 35


@pytest.mark.parametrize("page", [*LESSONS, *HOW_TO, *REFERENCE], **IDS)
def test_a_guide(page: Path, guides: Guides) -> None:
    guides(page)


def test_the_servers_of_the_deploy_guide(tmp_path: Path) -> None:
    page = (DOCS / "how-to" / "deploy.md").read_text(encoding="utf-8")
    # The guide itself runs `ferrule serve`.
    lines = re.findall(r"^\$ ((?:uvicorn|granian|gunicorn) .+)$", page, re.MULTILINE)
    assert len(lines) == 3
    with ThreadPoolExecutor(len(lines)) as pool:
        list(pool.map(lambda line: documents.answers(line, tmp_path), lines))


@pytest.mark.parametrize("page", pages(), **IDS)
def test_every_program_is_run(page: Path) -> None:
    run = {README, TUTORIAL, *LESSONS, *HOW_TO, *REFERENCE}
    for block in blocks(page):
        if block.language in ("python", "toml", "html", "javascript"):
            assert block.title, f'{block}: give it a title="…", so that it is run'
            assert page in run, f"{block}: pages outside of the tutorial and how-to are not run"
        assert block.language in (
            "python", "toml", "html", "javascript", "sh", "json", "text", "console", "nginx", "ini",
        ), f"{block}: say what it is"  # fmt: skip


@pytest.mark.parametrize("page", pages(), **IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)}: {target} leads nowhere"
        if anchor:
            assert anchor in _anchors(file), f"{page.relative_to(ROOT)}: {target} has no such part"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md")):
        if page != DOCS / "README.md":
            assert f"({page.relative_to(DOCS).as_posix()})" in index, page.name


@pytest.mark.parametrize("page", pages(), **IDS)
def test_named_paths_exist(page: Path) -> None:
    for path in re.findall(
        r"`((?:src|tests|docs|requirements|benchmarks|\.ci)/[^`\s]*)`", prose(page)
    ):
        assert list(ROOT.glob(path.rstrip("/"))), f"{page.relative_to(ROOT)}: {path} does not exist"


@pytest.mark.parametrize("page", pages(), **IDS)
def test_named_objects_exist(page: Path) -> None:
    for name in re.findall(r"`(ferrule(?:\.\w+)+)`", prose(page)):
        if name != "ferrule.asgi.app":
            pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", pages(), **IDS)
def test_named_settings_exist(page: Path) -> None:
    known = reference.setting_names()
    for name in re.findall(r"\bFERRULE_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")):
        assert name in known or name.startswith("FERRULE_TEST_"), f"{page.name}: {name}"


@pytest.mark.parametrize("page", pages(), **IDS)
def test_named_routes_exist(page: Path) -> None:
    known = reference.route_names()
    for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s]*)`", prose(page)):
        path = path.partition("?")[0]
        if not path.startswith("/api/v1/notes"):  # the tutorial's own
            assert (method, path) in known, f"{page.relative_to(ROOT)}: {method} {path}"


@pytest.mark.parametrize("name", sorted(reference.GENERATED))
def test_what_is_generated_is_up_to_date(name: str) -> None:
    page = DOCS / "reference" / name
    old = page.read_text(encoding="utf-8")
    new = reference.renewed(old, reference.GENERATED[name]())
    if os.environ.get("WRITE_DOCS"):
        page.write_text(new, encoding="utf-8")
        return
    assert old == new, (
        f"docs/reference/{name} is out of date: run "
        f"WRITE_DOCS=1 .venv/bin/pytest tests/test_docs.py -k up_to_date"
    )


def test_all_codes_of_errors_are_described() -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", _reference("errors.md"), re.MULTILINE))
    assert described == reference.error_codes()


def test_lists_are_described() -> None:
    page = _reference("lists.md")
    for name in (*reference.list_parameters(), *reference.list_operators()):
        assert f"`{name}`" in page or f"`{name}=" in page, name


def test_decisions_are_short_and_numbered() -> None:
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    for number, page in enumerate(decisions, 1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert len(text.splitlines()) < 60, page.name


def _reference(name: str) -> str:
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


def _anchors(page: Path) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
