"""What a schema lets in must fit into its column: PostgreSQL would refuse it, SQLite take it."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from sqlalchemy import BigInteger, Integer, SmallInteger, String

from ferrule.errors import ConfigurationError
from ferrule.schemas import Schema


def check_bounds(
    model: type[Any], schemas: Sequence[type[Schema]], attribute: Mapping[str, str]
) -> None:
    """Raise `ConfigurationError` for a field that allows more than its column holds."""
    for schema in schemas:
        columns = {
            name: model.__mapper__.columns.get(attribute[name]) for name in schema.model_fields
        }
        unclear = [
            (name, column)
            for name, column in columns.items()
            if column is not None and not _fits(column.type, schema.model_fields[name])
        ]
        if not unclear:
            continue
        properties: dict[str, Any] = TypeAdapter(schema).json_schema().get("properties", {})
        for name, column in unclear:
            for kind in _alternatives(properties.get(name, {})):
                problem = _too_wide(column.type, kind)
                if problem:
                    raise ConfigurationError(
                        f"{schema.__name__}.{name} allows more than the column "
                        f"{model.__name__}.{attribute[name]} holds: {problem}."
                    )


def _fits(column: Any, field: FieldInfo) -> bool:
    """Whether the column has no bounds, or the field states its own: no need of a JSON schema.

    To make one takes milliseconds of each start.
    """
    if isinstance(column, String):
        return not column.length or _stated(field, "max_length") <= column.length
    most = _most(column)
    return most is None or _stated(field, "le") <= most or _stated(field, "lt") <= most + 1


def _stated(field: FieldInfo, bound: str) -> float:
    """The least of such bounds among the constraints of a field."""
    found = (getattr(constraint, bound, None) for constraint in field.metadata)
    return min((each for each in found if each is not None), default=inf)


def _most(column: Any) -> int | None:
    """The largest integer that a column holds; none for what holds all that we let in."""
    if not isinstance(column, Integer) or isinstance(column, BigInteger):
        return None
    return 2**15 - 1 if isinstance(column, SmallInteger) else 2**31 - 1


def _alternatives(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield schema
    yield from cast(list[Mapping[str, Any]], schema.get("anyOf", []))


def _too_wide(column: Any, field: Mapping[str, Any]) -> str | None:
    if isinstance(column, String) and column.length and field.get("type") == "string":
        if "enum" in field or "const" in field:
            return None
        if field.get("maxLength", column.length + 1) > column.length:
            return f"give it max_length={column.length}"
    most = _most(column)
    if (
        most is not None
        and field.get("type") == "integer"
        and field.get("maximum", most + 1) > most
    ):
        return f"give it le={most}, or make the column a BigInteger"
    return None
