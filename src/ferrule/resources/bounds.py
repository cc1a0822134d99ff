"""What a schema lets in must fit into its column: PostgreSQL would refuse it, SQLite take it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pydantic import TypeAdapter
from sqlalchemy import BigInteger, Integer, SmallInteger, String

from ferrule.errors import ConfigurationError
from ferrule.schemas import Schema


def check_bounds(
    model: type[Any], schemas: Sequence[type[Schema]], attribute: Mapping[str, str]
) -> None:
    """Raise `ConfigurationError` for a field that allows more than its column holds."""
    for schema in schemas:
        properties: dict[str, Any] = TypeAdapter(schema).json_schema().get("properties", {})
        for name in schema.model_fields:
            column = model.__mapper__.columns.get(attribute[name])
            if column is None or name not in properties:
                continue
            for kind in _alternatives(properties[name]):
                problem = _too_wide(column.type, kind)
                if problem:
                    raise ConfigurationError(
                        f"{schema.__name__}.{name} allows more than the column "
                        f"{model.__name__}.{attribute[name]} holds: {problem}."
                    )


def _alternatives(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield schema
    yield from cast(list[Mapping[str, Any]], schema.get("anyOf", []))


def _too_wide(column: Any, field: Mapping[str, Any]) -> str | None:
    if isinstance(column, String) and column.length and field.get("type") == "string":
        if "enum" in field or "const" in field:
            return None
        if field.get("maxLength", column.length + 1) > column.length:
            return f"give it max_length={column.length}"
    if isinstance(column, Integer) and not isinstance(column, BigInteger):
        bits = 15 if isinstance(column, SmallInteger) else 31
        if field.get("type") == "integer" and field.get("maximum", 2**bits) >= 2**bits:
            return f"give it le={2**bits - 1}, or make the column a BigInteger"
    return None
