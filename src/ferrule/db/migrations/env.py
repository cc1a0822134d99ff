"""Alembic runs this file for each command; `Migrations` provides the connection and the options."""

from alembic import context

attributes = context.config.attributes

context.configure(connection=attributes["connection"], **attributes["options"])
with context.begin_transaction():
    context.run_migrations()
    attributes["before_commit"](attributes["connection"])
