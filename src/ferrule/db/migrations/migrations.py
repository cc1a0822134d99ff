"""Upgrade, downgrade, compare and write migrations, by Alembic on our own engines."""

import io
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, Connection, event, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ferrule.db.engines import migration_engine, open_engines, parse_url
from ferrule.db.migrations.failures import FAILURES, MigrationError, explain, unreachable
from ferrule.db.migrations.lock import migration_lock
from ferrule.db.migrations.revisions import Revision, Revisions, Status
from ferrule.db.settings import DatabaseSettings
from ferrule.errors import ConfigurationError
from ferrule.module import Module

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")


class Migrations:
    """The migrations of an application's modules on one database.

    Revisions are named `<module>_<number>`. Targets are `heads`, `base`, such a name, or one
    relative to a module's branch: `items@-1`, `items@base`.

    What fails on the way raises `MigrationError`; a run is one transaction, so nothing is changed
    then. What cannot be run as asked raises `ConfigurationError`.
    """

    def __init__(
        self, url: URL | str, settings: DatabaseSettings, modules: Sequence[Module]
    ) -> None:
        self.url = parse_url(url) if isinstance(url, str) else url
        self.settings = settings
        self.modules = tuple(modules)
        self.revisions = Revisions(modules)

    async def current(self) -> tuple[str, ...]:
        """The revision ids that stand in the database."""
        return (await self.status()).current

    async def status(self) -> Status:
        """Compare the revision ids of the database with those of the code."""
        try:
            current = await self._read(current_revisions)
        except FAILURES as failure:
            raise unreachable(failure) from failure
        return self.revisions.status(current)

    def heads(self) -> tuple[str, ...]:
        """The newest revision id of each module."""
        return self.revisions.heads()

    def history(self) -> tuple[Revision, ...]:
        """All revisions, in an order in which they can run."""
        return self.revisions.ordered

    async def upgrade(self, target: str = "heads") -> tuple[str, ...]:
        """Run what is pending up to `target`; the ids that were run."""
        from alembic import command

        (await self.status()).refuse_unknown()
        return await self._migrate(lambda config: command.upgrade(config, target))

    async def downgrade(self, target: str) -> tuple[str, ...]:
        """Undo everything after `target`; the ids that were undone. Loses what they stored."""
        from alembic import command

        (await self.status()).refuse_unknown()
        return await self._migrate(lambda config: command.downgrade(config, target))

    async def check(self) -> list[str]:
        """How the database's tables differ from the models, in sentences."""
        from ferrule.db.migrations.differences import comparison, describe

        await self._require_head("compare models")
        options = comparison(self.modules, self.revisions)
        return describe(await self._read(lambda connection: _compare(connection, options)))

    async def revision(
        self, message: str, *, module: str | None = None, empty: bool = False
    ) -> Path:
        """Write the next migration of one module from the difference of models and database.

        Without `module` it is the one that changed. `empty` leaves the body to you, for a
        migration of data. Returns the new file.
        """
        from ferrule.db.migrations.writing import write_revision

        if self.url.get_backend_name() == "sqlite":
            # As a start would do.
            await self.upgrade()
        await self._require_head("write a migration")
        owner = self._named(module) if module else await self._changed()
        return await self._run(
            lambda engine: _with_connection(
                engine,
                lambda connection: write_revision(self, owner, message, connection, empty=empty),
            )
        )

    def config(
        self,
        connection: Connection,
        options: dict[str, Any],
        before_commit: Callable[[Connection], None] = lambda _: None,
        **values: str,
    ) -> "Config":
        """Alembic's configuration for a run on this connection."""
        from alembic.config import Config

        config = Config(stdout=io.StringIO(), cmd_opts=Namespace(quiet=True))
        folders = [str(folder) for folder in self._folders() if folder.is_dir()]
        values |= {
            "script_location": str(Path(__file__).parent),
            "path_separator": "newline",
            "version_locations": "\n".join(folders),
        }
        for name, value in values.items():
            config.set_main_option(name, value.replace("%", "%%"))
        shared: dict[str, Any] = {
            # SQLite can roll back changes of the schema, too, now that we begin its transactions.
            "transactional_ddl": True,
            "transaction_per_migration": False,
            "render_as_batch": True,
        }
        config.attributes["connection"] = connection
        config.attributes["options"] = shared | options
        config.attributes["before_commit"] = before_commit
        return config

    async def _migrate(self, command: "Callable[[Config], None]") -> tuple[str, ...]:
        from alembic.util import CommandError

        done: list[str] = []
        commits: list[Connection] = []
        # Commits before the last one come from an autocommit_block.

        def on_version_apply(*, step: Any, **_: Any) -> None:
            done.append(step.up_revision_id)

        def on_commit(connection: Connection) -> None:
            commits.append(connection)

        def before_commit(connection: Connection) -> None:
            _check_foreign_keys(connection)
            event.remove(connection, "commit", on_commit)

        def run(connection: Connection) -> None:
            event.listen(connection, "commit", on_commit)
            options = {"on_version_apply": on_version_apply}
            command(self.config(connection, options, before_commit))

        async def locked(engine: AsyncEngine) -> None:
            async with migration_lock(engine, self.settings):
                await _with_connection(engine, run)

        try:
            await self._run(locked)
        except (ConfigurationError, MigrationError):
            raise
        except CommandError as failure:
            raise ConfigurationError(f"{failure} (see `ferrule db history`)") from failure
        except Exception as failure:
            raise explain(
                failure, folders=self._folders(), settings=self.settings, partly=bool(commits)
            ) from failure
        return tuple(done)

    async def _read(self, work: Callable[[Connection], Any]) -> Any:
        """Without a transaction: the one of `migration_engine` would wait for SQLite's writer."""
        self._make_folder()
        engines = open_engines(self.url, self.settings)
        try:
            return await _with_connection(engines.read, work)
        finally:
            await engines.dispose()

    async def _run(self, work: Callable[[AsyncEngine], Any]) -> Any:
        self._make_folder()
        engine = migration_engine(self.url, self.settings)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    def _make_folder(self) -> None:
        if self.url.get_backend_name() == "sqlite":
            try:
                Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as failure:
                raise unreachable(failure) from failure

    async def _require_head(self, purpose: str) -> None:
        status = await self.status()
        status.refuse_unknown()
        if status.pending:
            raise ConfigurationError(
                f"The database lacks {', '.join(status.pending)}: to {purpose}, run "
                f"`ferrule db upgrade` first."
            )

    async def _changed(self) -> Module:
        from ferrule.db.migrations.differences import comparison

        changed: list[Module] = []
        for module in self.modules:
            options = comparison([module], self.revisions)
            if await self._read(lambda connection, options=options: _compare(connection, options)):
                changed.append(module)
        if not changed:
            raise ConfigurationError(
                "Nothing changed: models and database agree. For a migration of data, add "
                "--empty --module NAME."
            )
        if len(changed) > 1:
            names = ", ".join(module.name for module in changed)
            raise ConfigurationError(
                f"Several modules changed: {names}. Write and apply one after the other, with "
                f"--module {changed[0].name} first."
            )
        return changed[0]

    def _named(self, name: str) -> Module:
        for module in self.modules:
            if module.name == name and module.models:
                return module
        names = ", ".join(module.name for module in self.modules if module.models) or "none"
        raise ConfigurationError(f"There is no module {name!r} with models; those are: {names}.")

    def _folders(self) -> list[Path]:
        return [module.migrations for module in self.modules if module.migrations is not None]


def current_revisions(connection: Connection) -> list[str]:
    """The revision ids that stand in the database; none in an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return []
    return list(connection.scalars(text("SELECT version_num FROM alembic_version")))


async def _with_connection(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    async with engine.connect() as connection:
        return await connection.run_sync(work)


def _compare(connection: Connection, options: dict[str, Any]) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(connection, opts=options)
    return compare_metadata(context, options["target_metadata"])


def _check_foreign_keys(connection: Connection) -> None:
    # They are not enforced while tables are rebuilt, so what would be broken is looked for here.
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        pairs = sorted({f"{row[0]} → {row[2]}" for row in broken})
        raise MigrationError(
            f"The migrations would leave {len(broken)} rows that refer to rows which do not "
            f"exist ({', '.join(pairs)}). Nothing was changed."
        )
