"""`ferrule settings`: every setting as a row, secrets masked."""

import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ferrule.settings import Settings, source_of, variables

MASK = "********"
NAMES: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true|false",
    Path: "path",
    SecretStr: "secret",
}


class Row(TypedDict):
    """One setting, as text. `source` is `default`, or the variable and whether `.env` holds it."""

    variable: str
    type: str
    default: str
    meaning: str
    value: str
    source: str


def listed(settings: Settings) -> list[Row]:
    """Every setting of the application, in the order of its groups."""
    return [_row(settings, variable, path) for variable, path in variables(type(settings)).items()]


def rendered(rows: Iterable[Row]) -> str:
    """The rows as text for a terminal."""
    return "\n".join(
        f"{row['variable']} = {row['value']}\n"
        f"    {row['meaning']}\n"
        f"    {row['type']}; default {row['default']}; from {row['source']}"
        for row in rows
    )


def _row(settings: Settings, variable: str, path: tuple[str, ...]) -> Row:
    group: BaseModel = settings
    for name in path[:-1]:
        group = getattr(group, name)
    field = type(group).model_fields[path[-1]]
    return Row(
        variable=variable,
        type=_type_text(field.annotation) + _bounds(field),
        default=_text(field.get_default(call_default_factory=True), field),  # pyright: ignore[reportUnknownArgumentType]
        meaning=field.description or "",
        value=_text(getattr(group, path[-1]), field),
        source=source_of(variable),
    )


def _text(value: Any, field: FieldInfo) -> str:
    if value is None or value == []:
        return "unset"
    if isinstance(value, str) and field.json_schema_extra == {"secret": True}:
        return _host(value)
    if isinstance(value, list | tuple):
        return ",".join(_text(part, field) for part in value)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, SecretStr):
        return MASK
    return str(value).lower() if isinstance(value, bool) else str(value)


def _host(text: str) -> str:
    """An address without its user, password and parameters."""
    try:
        url = make_url(text)
    except ArgumentError:
        return MASK
    if url.host is None:
        return f"{url.get_backend_name()}:///{url.database or ''}"
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host}{port}/{MASK}"


def _type_text(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin is Literal:
        return "|".join(str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_text(part) for part in arguments if part is not type(None))
    if origin in (list, tuple, set, frozenset):
        return f"{_type_text(arguments[0])}, several separated by commas"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(field: FieldInfo) -> str:
    low = next((f"≥ {m.ge}" for m in field.metadata if getattr(m, "ge", None) is not None), None)
    low = low or next(
        (f"> {m.gt}" for m in field.metadata if getattr(m, "gt", None) is not None), None
    )
    high = next((f"≤ {m.le}" for m in field.metadata if getattr(m, "le", None) is not None), None)
    return "".join(f" {bound}" for bound in (low, high) if bound)
