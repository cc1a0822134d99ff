"""Migrations: one history of all modules, alike on both databases, by one process at a time."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from ferrule.db import Database
from ferrule.db.migrations import MigrationError, Migrations, Revisions, prepare
from ferrule.db.settings import DatabaseSettings
from ferrule.errors import ConfigurationError
from ferrule.kit import Kit
from ferrule.module import Module
from ferrule.testing import TestDatabases
from tests.db import toys

SETTINGS = DatabaseSettings(migration_wait=20, lock_timeout=0.3)
OWNER, THING = uuid4(), uuid4()
ROWS = (
    f"INSERT INTO users (id, email, settings) VALUES ('{OWNER.hex}', 'ann@example.com', '{{}}')",
    "INSERT INTO things (id, name, price, quantity, seen, new, owner_id) "
    f"VALUES ('{THING.hex}', 'Hammer', 1250, 3, 7, TRUE, '{OWNER.hex}')",
    f"INSERT INTO parts (id, thing_id) VALUES ('{uuid4().hex}', '{THING.hex}')",
)


@pytest_asyncio.fixture
async def url(database_kind: str, databases: TestDatabases, tmp_path: Path) -> str:
    return await databases.create(database_kind, tmp_path)


@pytest_asyncio.fixture
async def history(databases: TestDatabases, tmp_path: Path) -> tuple[Module, ...]:
    """The toys with their first migrations, written on a SQLite database."""
    return await _write_history(await databases.create("sqlite", tmp_path, "first"), tmp_path)


async def _write_history(url: str, folder: Path) -> tuple[Module, ...]:
    modules = toys.modules(folder)
    for name in ("users", "shop"):
        migrations = Migrations(url, SETTINGS, modules)
        await migrations.revision(f"Create {name}", module=name)
        await Migrations(url, SETTINGS, modules).upgrade()
    return modules


@pytest_asyncio.fixture
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url, SETTINGS, Kit())
    yield database
    await database.close()


async def _write(database: Database, *statements: str) -> None:
    async with database.write() as session:
        for statement in statements:
            await session.execute(text(statement))


async def _rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.read() as session:
        return [tuple(row) for row in (await session.execute(text(query))).all()]


async def test_from_nothing_to_head_and_back(url: str, history: tuple[Module, ...]) -> None:
    migrations = Migrations(url, SETTINGS, history)
    assert [each.id for each in migrations.history()] == ["users_0001", "shop_0001"]
    assert (await migrations.status()).pending == ("users_0001", "shop_0001")
    assert await migrations.upgrade() == ("users_0001", "shop_0001")
    assert (await migrations.status()).up_to_date
    assert await migrations.check() == []
    assert await migrations.upgrade() == ()
    assert await migrations.downgrade("shop@-1") == ("shop_0001",)
    assert await migrations.current() == ("users_0001",)
    assert await migrations.downgrade("base") == ("users_0001",)
    assert await migrations.current() == ()


async def test_what_one_database_wrote_runs_on_the_other(
    url: str, databases: TestDatabases, tmp_path: Path
) -> None:
    modules = await _write_history(url, tmp_path)
    other = Migrations(await databases.create("sqlite", tmp_path, "other"), SETTINGS, modules)
    await other.upgrade()
    assert await other.check() == []


async def test_a_written_file_is_named_portable_and_clean(
    history: tuple[Module, ...], tmp_path: Path
) -> None:
    path = tmp_path / "shop" / "migrations" / "0001_create_shop.py"
    source = path.read_text(encoding="utf-8")
    assert 'revision = "shop_0001"' in source
    assert 'branch_labels = ("shop",)' in source
    assert 'depends_on = "users_0001"' in source
    assert '"price", types.Money(precision=14, scale=2)' in source
    assert '"sold_at", types.UtcDateTime()' in source
    assert '"id", sa.Uuid()' in source
    assert "dialects" not in source
    for arguments in (["check", "--select", "E,F,I,UP"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *arguments, "--isolated", str(path)]
        assert await (await asyncio.create_subprocess_exec(*ruff)).wait() == 0


async def test_rows_survive_a_rebuilt_table(
    url: str, opened: Database, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    await _write(opened, *ROWS)
    changed = toys.modules(tmp_path, shop=toys.SHOP_CHANGED)
    migrations = Migrations(url, SETTINGS, changed)
    assert len(await migrations.check()) == 3
    path = await migrations.revision("Add a colour")
    assert path.name == "0002_add_a_colour.py"
    migrations = Migrations(url, SETTINGS, changed)
    assert await migrations.upgrade() == ("shop_0002",)
    assert await migrations.check() == []
    assert await _rows(opened, "SELECT name, colour, quantity FROM things") == [
        ("Hammer", "red", 3)
    ]
    # Dropping a table on the way must not have fired the ON DELETE CASCADE of those that refer.
    assert len(await _rows(opened, "SELECT id FROM parts")) == 1
    assert await migrations.downgrade("shop@-1") == ("shop_0002",)
    assert await _rows(opened, "SELECT name, seen FROM things") == [("Hammer", 7)]
    assert len(await _rows(opened, "SELECT id FROM parts")) == 1
    path.unlink()
    assert await Migrations(url, SETTINGS, toys.modules(tmp_path)).check() == []


async def test_a_removed_model_is_a_dropped_table(
    url: str, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    fewer = toys.modules(tmp_path, shop=toys.SHOP.partition("class Part")[0])
    migrations = Migrations(url, SETTINGS, fewer)
    assert await migrations.check() == [
        "Index ix_parts_thing_id of parts is in the database, and not in the models.",
        "Table parts is in the database, and not in the models.",
    ]
    assert 'op.drop_table("parts")' in (await migrations.revision("Drop parts")).read_text()


async def test_tables_of_strangers_are_left_alone(
    url: str, opened: Database, history: tuple[Module, ...]
) -> None:
    migrations = Migrations(url, SETTINGS, history)
    await migrations.upgrade()
    await _write(opened, "CREATE TABLE strangers (id INTEGER PRIMARY KEY)")
    assert await migrations.check() == []


async def test_writing_is_refused_where_it_would_mislead(
    url: str, history: tuple[Module, ...], tmp_path: Path
) -> None:
    migrations = Migrations(url, SETTINGS, history)
    if url.startswith("postgresql"):
        with pytest.raises(
            ConfigurationError, match=r"lacks users_0001, shop_0001.*ferrule db upgrade"
        ):
            await migrations.revision("Too early")
    with pytest.raises(ConfigurationError, match="ferrule db upgrade"):
        await migrations.check()
    await migrations.upgrade()
    with pytest.raises(ConfigurationError, match="Nothing changed"):
        await migrations.revision("Nothing")
    with pytest.raises(ConfigurationError, match="Nothing changed in module 'shop'"):
        await migrations.revision("Nothing", module="shop")
    with pytest.raises(ConfigurationError, match="no module 'shoe' with models; those are: users"):
        await migrations.revision("Nothing", module="shoe")
    with pytest.raises(ConfigurationError, match="Can't locate revision"):
        await migrations.downgrade("shop_0009")
    path = await migrations.revision("Fill the prices", module="shop", empty=True)
    assert path.name == "0002_fill_the_prices.py"


async def test_a_later_revision_depends_on_what_came_since(
    url: str, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    await Migrations(url, SETTINGS, history).revision("Data", module="users", empty=True)
    await Migrations(url, SETTINGS, history).upgrade()
    path = await Migrations(url, SETTINGS, history).revision("More", module="shop", empty=True)
    assert 'depends_on = "users_0002"' in path.read_text()
    migrations = Migrations(url, SETTINGS, history)
    assert await migrations.upgrade() == ("shop_0002",)
    assert migrations.heads() == ("users_0002", "shop_0002")
    assert (await migrations.status()).up_to_date
    assert await migrations.downgrade("users_0001") == ("shop_0002", "users_0002")
    assert (await migrations.status()).pending == ("users_0002", "shop_0002")


async def test_a_failed_migration_is_named_and_changes_nothing(
    url: str, opened: Database, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    toys.migration(tmp_path, "users", 2, "op.add_column('users', sa.Column('age', sa.Integer()))")
    bad = toys.migration(tmp_path, "users", 3, "op.execute('UPDATE nowhere SET a = 1')")
    with pytest.raises(MigrationError) as failure:
        await Migrations(url, SETTINGS, history).upgrade()
    assert str(failure.value).startswith("The migration users/0003_by_hand.py failed: ")
    assert "UPDATE nowhere" in str(failure.value)
    assert str(failure.value).endswith("Nothing was changed.")
    assert await Migrations(url, SETTINGS, history).current() == ("shop_0001",)
    bad.unlink()
    # It would fail if the column of the one before had stayed.
    assert await Migrations(url, SETTINGS, history).upgrade() == ("users_0002",)


async def test_what_an_autocommit_block_kept_is_told(
    url: str, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    toys.migration(tmp_path, "shop", 2, "pass")
    block = "with op.get_context().autocommit_block():\n    op.execute('SELECT 1')\n"
    toys.migration(tmp_path, "shop", 3, block + "op.execute('nonsense')")
    with pytest.raises(MigrationError, match="up to an autocommit_block is kept"):
        await Migrations(url, SETTINGS, history).upgrade()
    assert await Migrations(url, SETTINGS, history).current() == ("shop_0002",)
    toys.migration(tmp_path, "shop", 3, block)
    assert await Migrations(url, SETTINGS, history).upgrade() == ("shop_0003",)


async def test_broken_references_are_refused(
    url: str, opened: Database, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    await _write(opened, *ROWS)
    toys.migration(tmp_path, "shop", 2, "op.execute('DELETE FROM things')")
    migrations = Migrations(url, SETTINGS, history)
    if opened.embedded:
        with pytest.raises(MigrationError, match="1 rows that refer to rows which do not exist"):
            await migrations.upgrade()
        assert len(await _rows(opened, "SELECT id FROM things")) == 1
    else:  # which enforces them all the time, and cascades
        await migrations.upgrade()
        assert await _rows(opened, "SELECT id FROM parts") == []


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_a_lock_that_another_session_holds_is_not_waited_for_long(
    url: str, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    toys.migration(tmp_path, "users", 2, "op.add_column('users', sa.Column('age', sa.Integer()))")
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE users IN ACCESS SHARE MODE")
            with pytest.raises(MigrationError) as failure:
                await Migrations(url, SETTINGS, history).upgrade()
    finally:
        await connection.close()
    message = str(failure.value)
    assert "users/0002_by_hand.py waited 0.3 s for a lock" in message
    assert "ALTER TABLE users ADD COLUMN age" in message
    assert message.endswith("Nothing was changed.")


async def test_another_process_that_migrates_is_waited_for_with_a_deadline(
    url: str, opened: Database, history: tuple[Module, ...]
) -> None:
    settings = SETTINGS.model_copy(update={"migration_wait": 0.3})
    waiting = Migrations(url, settings, history)
    if opened.embedded:
        async with opened.write() as session:
            await session.execute(text("CREATE TABLE busy (id INTEGER)"))
            with pytest.raises(MigrationError, match=r"waited 0\.3 s for another process"):
                await waiting.upgrade()
    else:
        from ferrule.db.engines import migration_engine
        from ferrule.db.migrations.lock import migration_lock

        engine = migration_engine(opened.url, settings)
        async with migration_lock(engine, settings):
            with pytest.raises(MigrationError, match=r"Another process has been migrating"):
                await waiting.upgrade()
        await engine.dispose()
    assert await waiting.upgrade() == ("users_0001", "shop_0001")


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_a_migration_may_think_for_long(opened: Database) -> None:
    """Between two statements too, unlike a request."""
    from ferrule.db.engines import migration_engine

    engine = migration_engine(opened.url, SETTINGS)
    async with engine.connect() as connection:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            assert await connection.scalar(text(f"SHOW {name}")) == "0"
    await engine.dispose()


PROCESS = """
import asyncio, sys
from pathlib import Path
from ferrule.db.migrations import Migrations
from ferrule.db.settings import DatabaseSettings
from tests.db import toys
modules = toys.modules(Path(sys.argv[2]))
migrations = Migrations(sys.argv[1], DatabaseSettings(), modules)
assert "alembic" not in sys.modules  # what compares ids at the start does not need it
sys.stdin.readline()
print(*asyncio.run(migrations.upgrade()))
"""


async def test_processes_that_start_at_once_migrate_once(
    url: str, history: tuple[Module, ...], tmp_path: Path
) -> None:
    root = Path(toys.__file__).parents[2]
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{PROCESS}"),
            *(url, str(tmp_path)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(out.decode().strip() for out, _ in outputs) == ["", "users_0001 shop_0001"]
    assert (await Migrations(url, SETTINGS, history).status()).up_to_date


async def test_the_start_upgrades_sqlite_and_refuses_postgresql(
    url: str, opened: Database, history: tuple[Module, ...]
) -> None:
    if not opened.embedded:
        with pytest.raises(
            ConfigurationError, match=r"is empty; the code needs users_0001, shop_0001"
        ):
            await prepare(opened, history)
        opened.settings = SETTINGS.model_copy(update={"migrate_on_start": True})
    await prepare(opened, history)
    assert (await Migrations(url, SETTINGS, history).status()).up_to_date


async def test_the_start_refuses_a_newer_database(
    url: str, opened: Database, history: tuple[Module, ...]
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    await _write(opened, "UPDATE alembic_version SET version_num = 'shop_0002'")
    with pytest.raises(ConfigurationError, match=r"does not know: shop_0002\. A newer version"):
        await prepare(opened, history)
    with pytest.raises(ConfigurationError, match=r"does not know: shop_0002"):
        await Migrations(url, SETTINGS, history).upgrade()


async def test_models_without_migrations_are_told(
    opened: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await prepare(opened, toys.modules(tmp_path))
    assert "Module users has models and no migrations" in caplog.text


async def test_a_database_out_of_reach_is_told(databases: TestDatabases, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, and long enough to be read as one")
    migrations = Migrations(f"sqlite:///{tmp_path / 'text.db'}", SETTINGS, toys.modules(tmp_path))
    with pytest.raises(MigrationError, match="file is not a database"):
        await migrations.current()


def test_two_revisions_of_one_name_are_refused(history: tuple[Module, ...], tmp_path: Path) -> None:
    toys.migration(tmp_path, "shop", 2, "pass")
    path = tmp_path / "shop" / "migrations" / "0002_by_hand.py"
    path.with_name("0003_again.py").write_text(path.read_text())
    with pytest.raises(ConfigurationError, match="Two migrations are called shop_0002"):
        Revisions(history)


async def test_an_embedded_database_is_upgraded_before_a_migration_is_written(
    url: str, history: tuple[Module, ...]
) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("about SQLite")
    migrations = Migrations(url, SETTINGS, history)
    with pytest.raises(ConfigurationError, match="Nothing changed"):
        await migrations.revision("Nothing")
    assert (await migrations.status()).pending == ()


async def test_defaults_of_the_server_run_on_both_databases(
    url: str, opened: Database, history: tuple[Module, ...], tmp_path: Path
) -> None:
    await Migrations(url, SETTINGS, history).upgrade()
    source = toys.SHOP.replace(
        "    seen: Mapped[int]\n",
        "    seen: Mapped[int]\n    sold: Mapped[bool] = mapped_column(server_default=false())\n",
    )
    source = "from sqlalchemy import false\n" + source
    migrations = Migrations(url, SETTINGS, toys.modules(tmp_path, shop=source))
    written = await migrations.revision("Sold")
    assert "server_default=sa.false()" in written.read_text()
    await Migrations(url, SETTINGS, toys.modules(tmp_path, shop=source)).upgrade()
    assert await Migrations(url, SETTINGS, toys.modules(tmp_path, shop=source)).check() == []


def test_two_modules_cannot_share_a_folder(history: tuple[Module, ...]) -> None:
    twin = Module(name="twin", models=history[0].models)
    with pytest.raises(ConfigurationError, match="'users' and 'twin' stand in one folder"):
        Revisions([*history, twin])
