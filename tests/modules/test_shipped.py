"""What the shipped modules have in common."""

from ferrule import Ferrule
from ferrule.db.migrations import Migrations


async def test_migrations_make_what_the_models_say(app: Ferrule) -> None:
    settings = app.settings
    migrations = Migrations(settings.resolved_database_url, settings.database, app.modules)
    assert await migrations.check() == []
