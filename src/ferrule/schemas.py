"""The base of request and response schemas, whose plain `str`, `int` and `float` are safe to store.

A schema that says `name: str` refuses NUL and lone surrogates, `count: int` what is beyond ±2^53,
`ratio: float` NaN and infinity, `at: datetime` a time without zone, and unknown fields are refused:
the same 422 on both databases.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, TypeVar, cast
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, to_json
from pydantic_core.core_schema import no_info_before_validator_function
from typing_extensions import TypeAliasType

from ferrule.db.types import MAX_INT, json_problem

__all__ = [
    "JsonObject",
    "OwnedStored",
    "Price",
    "Schema",
    "Stored",
    "changes",
    "from_settings",
    "patch_of",
]

TEXT = r"^[^\x00]*$"
MAX_TEXT = 100_000
"""Characters of a string that has no `max_length` of its own."""
JSON_DEPTH = 64
MAX_JSON = 65_536
"""Bytes of a JSON object, so that a list of the largest is still an answer."""
SETTINGS = "x-settings"
"""Where a JSON schema names settings that keywords come from; OpenAPI has their values."""
# A day from the calendar's ends, so that no time zone leads beyond them.
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

_BOUNDS = frozenset(
    {"min_length", "max_length", "pattern", "ge", "le", "gt", "lt", "multiple_of"}
    | {"max_digits", "decimal_places"}
)
_NO_SCHEMAS = frozenset({"metadata", "serialization", "default"})

S = TypeVar("S", bound="Schema")


def _bound(schema: Any, owner: type[BaseModel], *, strict: bool) -> None:
    """Give text, integers, decimals and times in a core schema the bounds that they lack."""
    node = cast(dict[str, Any], schema)
    kind = node.get("type")
    if strict and kind in ("int", "float", "bool"):
        node.setdefault("strict", True)
    if kind == "function-before" and node["function"]["function"] is _whole:
        return
    if kind == "str":
        node.setdefault("pattern", TEXT)
        return
    if kind == "int":
        if "lt" not in node:
            node.setdefault("le", MAX_INT)
        if "gt" not in node:
            node.setdefault("ge", -MAX_INT)
        if node.get("strict"):
            inner = dict(node)
            node.clear()
            node.update(no_info_before_validator_function(_whole, cast(Any, inner)))
        return
    if kind == "datetime":
        node.setdefault("tz_constraint", "aware")
        node.setdefault("ge", _FIRST)
        node.setdefault("le", _LAST)
        return
    if kind == "decimal":
        if "max_digits" not in node:
            node.setdefault("decimal_places", 2)
            node["max_digits"] = 14
        node["metadata"] = {"pydantic_js_functions": [_decimal], **node.get("metadata", {})}
        return
    for part in _parts(node, owner):
        _bound(part, owner, strict=strict)


def _unbound(schema: Any, owner: type[BaseModel]) -> None:
    """Take the bounds out of a core schema."""
    node = cast(dict[str, Any], schema)
    if node.get("type") == "function-after" and node["function"]["function"] is _storable_json:
        inner, metadata = node["schema"], node.get("metadata", {})
        node.clear()
        node.update(inner, metadata={**inner.get("metadata", {}), **metadata})
    for bound in _BOUNDS.intersection(node):
        del node[bound]
    for part in _parts(node, owner):
        _unbound(part, owner)


def _parts(node: dict[str, Any], owner: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """The schemas inside a core schema, but not other models of ours: they did it themselves."""
    # A dict without a type holds the fields of a model, which may have any name.
    skipped = _NO_SCHEMAS if "type" in node else ()
    todo = [part for key, part in node.items() if key not in skipped]
    while todo:
        part = todo.pop()
        if isinstance(part, list | tuple):
            todo.extend(cast(list[Any], part))
        elif isinstance(part, dict):
            schema = cast(dict[str, Any], part)
            model = schema.get("cls") if schema.get("type") == "model" else None
            if model in (None, owner) or not issubclass(model, Schema):
                yield schema


def _whole(value: Any) -> Any:
    """5.0 is an integer in JSON, and some clients write it so."""
    return int(value) if type(value) is float and value.is_integer() else value


def _decimal(schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """How a decimal is documented: with its digits, which Pydantic leaves out."""
    documented = handler(schema)
    places = schema.get("decimal_places") or 0
    whole = schema["max_digits"] - places
    sign = "" if schema.get("ge", -1) >= 0 else "-?"
    for kind in documented.get("anyOf", [documented]):
        if kind["type"] == "string":
            kind.pop("maxLength", None)
            fraction = rf"(\.[0-9]{{1,{places}}})?" if places else ""
            kind["pattern"] = rf"^{sign}[0-9]{{1,{whole}}}{fraction}$"
        else:
            kind.setdefault("maximum", 10**whole - 1)
            kind["multipleOf"] = 10**-places
    return documented


class Schema(BaseModel):
    """Base of what comes in and goes out. Reads attributes, so that a row can be answered."""

    model_config = ConfigDict(
        extra="forbid",
        from_attributes=True,
        allow_inf_nan=False,
        str_max_length=MAX_TEXT,
        ser_json_inf_nan="null",
    )
    comes_as_text: ClassVar[bool] = False

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        _bound(schema, cls, strict=not cls.comes_as_text)
        return schema


class TextSchema(Schema):
    """Base of query parameters and forms, where numbers and truth values come as text too."""

    comes_as_text = True


class Stored(Schema):
    """What every stored row answers with, beside its own fields.

    The bounds of its fields are those of what comes in, and are left away: a row that was stored
    under wider ones is still answered.
    """

    model_config = ConfigDict(str_max_length=None)

    id: UUID
    revision: int = Field(description="Raised by each change; the ETag is made of it.")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        _unbound(schema, cls)
        return schema


class OwnedStored(Stored):
    """A stored row that belongs to a user."""

    owner_id: UUID


def _storable_json(value: Any) -> Any:
    problem = json_problem(value, depth=JSON_DEPTH)
    why = problem[1] if problem else None
    if why is None and len(to_json(value)) > MAX_JSON:
        why = f"it is larger than {MAX_JSON} bytes"
    if why is not None:
        raise PydanticCustomError(
            "json_not_storable", "The JSON cannot be stored: {why}", {"why": why}
        )
    return value


_Number = Annotated[float, Field(ge=-MAX_INT, le=MAX_INT)]
_Text = Annotated[str, WithJsonSchema({"type": "string", "pattern": TEXT})]
_KEYS = Field(json_schema_extra={"propertyNames": {"pattern": TEXT}})
JsonValue = TypeAliasType(
    "JsonValue",
    "bool | _Number | _Text | list[JsonValue] | Annotated[dict[str, JsonValue], _KEYS] | None",
)


class _AsStored:
    """How JSON of any content is documented: with what both databases can hold."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return handler(TypeAdapter(Annotated[dict[str, JsonValue], _KEYS]).core_schema)


JsonObject = Annotated[dict[str, Any], AfterValidator(_storable_json), _AsStored()]
"""A JSON object of any content that both databases can hold, up to 64 KiB."""

Price = Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=2, allow_inf_nan=False)]
"""An exact amount, at least 0, with two places."""


def from_settings(**keywords: str) -> dict[str, Any]:
    """For `json_schema_extra`: keywords whose values stand in settings, `minLength="auth.min"`."""
    return {SETTINGS: keywords}


def patch_of(schema: type[S]) -> type[S]:
    """The schema of a PATCH: every field of `schema` may be left out, and none has a default.

    What the client named is in `model_fields_set`.
    """
    fields: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        optional = FieldInfo.from_annotation(field.rebuild_annotation())
        optional.description, optional.examples = field.description, field.examples
        optional.json_schema_extra = field.json_schema_extra
        # A factory, because a default would be documented as if it were applied.
        optional.default_factory = _left_out
        fields[name] = (field.rebuild_annotation(), optional)
    name = schema.__name__.removesuffix("Create") + "Patch"
    model = create_model(name, __base__=Schema, __module__=schema.__module__, **fields)
    return cast(type[S], model)


def changes(data: BaseModel) -> Mapping[str, Any]:
    """What a PATCH names, ready to be set on a model."""
    return {name: getattr(data, name) for name in data.model_fields_set}


def _left_out() -> Any:
    return None
