"""Writes rows as the response model would, without checking them by it.

Rows are those of prebuilt statements, and instances that a Read session loaded. A column holds what
its type says, so a response model that only names columns has nothing left to check. One that
computes, renames or converts is applied in the ordinary way, and so is everything that is no row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from inspect import isclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin
from uuid import UUID

import annotated_types
from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, RootModel, Strict, TypeAdapter
from pydantic.fields import FieldInfo
from sqlalchemy import Uuid
from sqlalchemy.orm.attributes import instance_state
from typing_extensions import TypedDict

from ferrule.db.session import ReadOnly
from ferrule.db.statements import Row, Rows, Values
from ferrule.db.types import MAX_INT, Json, UtcDateTime
from ferrule.schemas import JsonObject, Schema, Stored

# No float, which may be infinite.
_AS_THEY_ARE = frozenset({str, int, bool, UUID, datetime, date, time, Decimal})
_ALONE = (int, bool, NoneType)
_OF_ANY = (dict, list, dict[str, Any], list[Any])
_HARMLESS = frozenset(
    {"extra", "from_attributes", "allow_inf_nan", "str_max_length", "title", "defer_build"}
)
"""What the configuration of a model may say without changing a value."""
_BOUNDS = (
    *(annotated_types.Gt, annotated_types.Ge, annotated_types.Lt, annotated_types.Le),
    *(annotated_types.MinLen, annotated_types.MaxLen, annotated_types.MultipleOf),
    *(AllowInfNan, Strict),
)
_GENERAL_BOUNDS = frozenset({"pattern", "max_digits", "decimal_places"})
_OF_JSON = get_args(JsonObject)[1:]
_MISSING = object()
MAX_WRITERS = 512
"""Kinds of answers of one route whose writers are kept: more than a resource keeps statements."""

_SCHEMAS = frozenset(
    cast(Any, each.__get_pydantic_core_schema__).__func__ for each in (BaseModel, Schema, Stored)
)
Writer = Callable[[Any], bytes]


class _Unfit(Exception):
    """A value that the response model would refuse."""


class RowWriter:
    """Writes what one route answers."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._writers: dict[Any, Writer | None] = {}

    def write(self, answered: Any) -> bytes | None:
        """JSON of a row, of a list of rows, or of a dict with such a list; else None."""
        kind = _kind(answered)
        if kind is None or kind is _MISSING:
            return None
        if kind not in self._writers:
            if len(self._writers) >= MAX_WRITERS:
                del self._writers[next(iter(self._writers))]
            self._writers[kind] = _writer(self._annotation, kind)
        writer = self._writers[kind]
        try:
            return None if writer is None else writer(answered)
        except (KeyError, _Unfit):
            # A column of an instance was not loaded; a number is too large.
            return None


def _kind(answered: Any) -> Any:
    """What tells apart how answers are written; None for those that hold no rows."""
    kind = cast(Any, type(answered))
    if kind is dict:
        parts = cast(Values, answered)
        kinds = tuple((name, _part(value)) for name, value in parts.items())
        return kinds if any(isinstance(part, list | Rows) for part in parts.values()) else None
    if kind is list or kind is Rows:
        return _part(answered)
    if hasattr(kind, "__mapper__"):
        return _part([answered])[1] if _are_as_loaded([answered]) else None
    return kind if issubclass(kind, Row) else None


def _part(value: Any) -> Any:
    """The type of a value; of a list of rows from one statement, a list of their type."""
    if type(value) is Rows:
        return (Rows, value.row)
    if type(value) is not list:
        return cast(Any, type(value))
    rows = cast(list[Any], value)
    kinds: set[Any] = {type(row) for row in rows}
    if len(kinds) > 1:
        return _MISSING
    mapped = any(hasattr(kind, "__mapper__") for kind in kinds)
    return (list, *kinds) if not mapped or _are_as_loaded(rows) else _MISSING


def _are_as_loaded(instances: list[Any]) -> bool:
    """Whether a Read session loaded them and nobody changed them since."""
    first: Any = instance_state(instances[0])
    if not isinstance(first.session, ReadOnly):
        return False
    states = cast(Iterable[Any], map(instance_state, instances))
    return all(each.session_id == first.session_id and not each.modified for each in states)


def _writer(annotation: Any, kind: Any) -> Writer | None:
    if isinstance(kind, type):
        return _row_writer(annotation, kind)
    if kind[0] in (list, Rows):
        return _list_writer(annotation, kind)
    return _page_writer(annotation, dict(kind))


def _row_writer(annotation: Any, kind: type[Any]) -> Writer | None:
    row = _row_type(annotation, kind)
    if row is None:
        return None
    write, ordered = TypeAdapter(row).serializer.to_json, _checked(row, kind)
    return lambda answered: write(ordered(vars(cast(Row, answered))), by_alias=True)


def _list_writer(annotation: Any, kind: tuple[Any, ...]) -> Writer | None:
    rows = _rows_type(annotation, kind)
    if rows is None:
        return None
    write, values = TypeAdapter(rows[0]).serializer.to_json, rows[1]
    return lambda answered: write(values(answered), by_alias=True)


def _page_writer(annotation: Any, kinds: Mapping[str, Any]) -> Writer | None:
    """Of a model with lists of rows; what else it has must be there as it is written."""
    if not _is_plain(annotation) or annotation.model_fields.keys() != kinds.keys():
        return None
    fields: dict[str, Any] = {}
    lists: list[tuple[str, Any]] = []
    numbers: list[str] = []
    for name, field in annotation.model_fields.items():
        kind = kinds[name]
        if field.validation_alias or field.metadata or not _is_plain_field(field):
            return None
        fields[name] = field.annotation
        if isinstance(kind, tuple):
            rows = _rows_type(field.annotation, cast(Any, kind))
            if rows is None:
                return None
            fields[name] = rows[0]
            lists.append((name, rows[1]))
        elif kind in _ALONE:
            known, optional = _kind_of(field.annotation, [])
            if kind is not known and not (optional and kind is NoneType):
                return None
            numbers.extend([name] if kind is int else [])
        elif kind is not field.annotation or not _is_plain(kind):
            return None
    write = TypeAdapter(_typed_dict(annotation, fields)).serializer.to_json
    names = list(fields)

    def page(answered: Values) -> bytes:
        parts = {name: answered[name] for name in names}
        if any(abs(parts[name]) > MAX_INT for name in numbers):
            raise _Unfit
        for name, values in lists:
            parts[name] = values(parts[name])
        return write(parts, by_alias=True)

    return page


def _rows_type(annotation: Any, kind: tuple[Any, ...]) -> tuple[Any, Any] | None:
    """The type of a list of rows as it is written, and how the values of all are had."""
    if get_origin(annotation) is not list:
        return None
    (inner,) = get_args(annotation)
    if len(kind) == 1:
        return list[Any], list
    row = _row_type(inner, kind[1], textual=kind[0] is Rows)
    if row is None:
        return None
    names, checked = tuple(row.__annotations__), _checked(row, kind[1])

    def of_list(rows: list[Row]) -> list[Values]:
        return [checked(vars(each)) for each in rows]

    def of_rows(rows: Rows) -> list[Values]:
        return rows.written(names)

    return list[row], of_list if kind[0] is list else of_rows


def _columns(kind: type[Any]) -> Any:
    """The columns of a row by the names of its attributes; None for what is no row."""
    mapper = getattr(kind, "__mapper__", None)
    if mapper is not None:
        return mapper.columns
    return kind.columns if issubclass(kind, Row) else None


def _ordered(row: Any, kind: type[Any]) -> Callable[[Values], Values]:
    """Puts the values of a row into the order in which they are written."""
    names = list(row.__annotations__)
    if issubclass(kind, Row) and list(kind.columns)[: len(names)] == names:
        return _as_it_is
    return lambda values: {name: values[name] for name in names}


def _checked(row: Any, kind: type[Any]) -> Callable[[Values], Values]:
    """The same for single rows, which somebody may have made or changed: they must fit."""
    ordered, columns = _ordered(row, kind), _columns(kind)
    fits = [(name, _python_types(columns[name])) for name in row.__annotations__]

    def checked(values: Values) -> Values:
        for name, types in fits:
            if not isinstance(values[name], types):
                raise _Unfit
        return ordered(values)

    return checked


def _python_types(column: Any) -> tuple[type[Any], ...]:
    kinds = (dict, list) if isinstance(column.type, Json) else (column.type.python_type,)
    return (*kinds, NoneType) if column.nullable else kinds


def _as_it_is(values: Values) -> Values:
    return values


def _row_type(response: Any, kind: type[Any], *, textual: bool = False) -> Any:
    """The type of a row's values that is written as the response model would be; or None.

    `textual` values come as the text that is written, where that is had sooner.
    """
    columns = _columns(kind)
    # The bounds of what comes in would refuse some rows; Stored has none.
    if columns is None or not _is_plain(response) or not issubclass(response, Stored):
        return None
    fields: dict[str, Any] = {}
    for name, field in response.model_fields.items():
        attribute = field.validation_alias or name
        column = columns.get(attribute) if isinstance(attribute, str) else None
        if column is None or not _is_plain_field(field):
            return None
        if not _holds(field.annotation, field.metadata, column):
            return None
        as_text = textual and isinstance(column.type, Uuid | UtcDateTime)
        kept = (Any,) if as_text else (field.annotation, *field.metadata)
        fields[cast(str, attribute)] = Annotated[*kept, Field(serialization_alias=name)]
    return _typed_dict(response, fields)


def _typed_dict(model: type[BaseModel], fields: dict[str, Any]) -> Any:
    made: Any = cast(Any, TypedDict)(f"{model.__name__}Row", fields)
    made.__pydantic_config__ = ConfigDict(ser_json_inf_nan="null")
    return made


def _is_plain(model: Any) -> bool:
    """Whether a model has nothing but fields."""
    if not isclass(model) or not issubclass(model, BaseModel) or issubclass(model, RootModel):
        return False
    decorators: Any = model.__pydantic_decorators__
    if any(getattr(decorators, kind) for kind in decorators.__slots__):
        return False
    config = dict(model.model_config)
    if config.pop("ser_json_inf_nan", "null") != "null" or not _HARMLESS.issuperset(config):
        return False
    own_schema = cast(Any, model.__get_pydantic_core_schema__).__func__ not in _SCHEMAS
    own_init = model.__pydantic_custom_init__ or model.__pydantic_post_init__
    return not (own_schema or own_init or model.model_computed_fields)


def _is_plain_field(field: FieldInfo) -> bool:
    """Whether a field is written under its own name, always."""
    return not (
        field.alias
        or field.serialization_alias
        or field.exclude
        or field.exclude_if
        or field.discriminator
    )


def _holds(annotation: Any, metadata: list[Any], column: Any) -> bool:
    """Whether every value of the column is one of the field, and is written the same."""
    kind, optional = _kind_of(annotation, metadata)
    if getattr(column, "nullable", True) and not optional:
        return False
    if isinstance(column.type, Json):
        return kind in _OF_ANY
    return kind in _AS_THEY_ARE and kind is column.type.python_type


def _kind_of(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, bool]:
    """The one type of an annotation, and whether None is one; None where it is no plain one."""
    if not all(_is_bound(each) for each in metadata):
        return None, False
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _kind_of(inner, more)
    if origin in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not NoneType]
        if len(parts) != 1:
            return None, False
        return _kind_of(parts[0], [])[0], NoneType in get_args(annotation)
    return annotation, False


def _is_bound(metadata: Any) -> bool:
    """Whether it refuses values at most, and changes none."""
    if isinstance(metadata, FieldInfo):
        return all(_is_bound(each) for each in metadata.metadata)
    if isinstance(metadata, _BOUNDS) or metadata in _OF_JSON:
        return True
    # Pydantic keeps the rest in a class without a public name.
    known = type(metadata).__name__ == "_PydanticGeneralMetadata"
    return known and _GENERAL_BOUNDS.issuperset(cast(Values, vars(metadata)))
