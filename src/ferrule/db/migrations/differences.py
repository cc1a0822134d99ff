"""What Alembic compares, and how it writes what it found: files that run on both databases."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import CHAR, MetaData
from sqlalchemy.sql.elements import False_, True_
from sqlalchemy.types import TypeEngine

from ferrule.db.migrations.revisions import Revisions
from ferrule.db.types import Json, Money, UtcDateTime
from ferrule.module import Module

MISSING = "is missing in the database"
SURPLUS = "is in the database, and not in the models"


def comparison(modules: Iterable[Module], revisions: Revisions) -> dict[str, Any]:
    """Alembic's options for comparing the tables of these modules and of no other.

    A module owns the tables of its models, and those that its migrations created: so the removal
    of a model is seen, and tables of strangers in the same database are left alone.
    """
    modules = list(modules)
    owned = {table for module in modules for table in module.tables}
    for module in modules:
        owned.update(*(revision.creates for revision in revisions.of(module.name)))
    metadatas: dict[int, MetaData] = {
        id(model.metadata): model.metadata for module in modules for model in module.models
    }

    def include_name(name: str | None, kind: str, _: Any) -> bool:
        return kind != "table" or name in owned

    def include_object(_: Any, name: str | None, kind: str, *__: Any) -> bool:
        return kind != "table" or name in owned

    return {
        "target_metadata": list(metadatas.values()),
        "include_name": include_name,
        "include_object": include_object,
        "compare_type": True,
        "render_item": render_item,
        "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    }


def render_item(kind: str, item: Any, context: Any) -> str | bool:
    """A type as source text: ours by name, reflected ones as the portable type they stand for.

    So is a default that the server sets to true or false, which SQLite would write as a number.
    """
    if kind == "server_default" and isinstance(getattr(item, "arg", None), True_ | False_):
        return "sa.true()" if isinstance(item.arg, True_) else "sa.false()"
    if kind != "type":
        return False
    rendered = _our_type(item)
    if rendered:
        context.imports.add("from ferrule.db import types")
        return rendered
    if isinstance(item, CHAR) and item.length == 32:  # how SQLite stores a UUID
        return "sa.Uuid()"
    home = type(item).__module__
    if not home.startswith("sqlalchemy."):
        context.imports.add(f"import {home}")
        return f"{home}.{item!r}"
    return False


def _our_type(item: TypeEngine[Any]) -> str | None:
    name = type(item).__name__
    reflected = type(item).__module__.startswith("sqlalchemy.dialects.")
    if isinstance(item, Money):
        return f"types.Money(precision={item.impl_instance.precision}, scale={item.scale})"  # pyright: ignore
    if isinstance(item, UtcDateTime) or (reflected and name in ("DATETIME", "TIMESTAMP")):
        return "types.UtcDateTime()"
    if isinstance(item, Json) or (reflected and name in ("JSON", "JSONB")):
        return "types.Json()"
    return None


def describe(differences: Iterable[Any]) -> list[str]:
    """Alembic's differences as sentences."""
    return [sentence for difference in differences for sentence in _sentences(difference)]


def _sentences(difference: Any) -> Iterator[str]:
    if isinstance(difference, list):
        for one in difference:  # pyright: ignore[reportUnknownVariableType]
            yield from _sentences(one)
        return
    kind, *rest = difference
    action, _, what = kind.partition("_")
    state = MISSING if action == "add" else SURPLUS
    if what == "table":
        yield f"Table {rest[0].name} {state}."
    elif what == "column":
        yield f"Column {rest[1]}.{rest[2].name} {state}."
    elif action == "modify":
        before, after = rest[4:6]
        place = f"Column {rest[1]}.{rest[2]}"
        yield f"{place}: {what} is {before} in the database, {after} in the models."
    else:
        name = {"fk": "Foreign key"}.get(what, what.capitalize())
        yield f"{name} {rest[0].name} of {rest[0].table.name} {state}."
