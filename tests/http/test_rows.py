"""Rows are written as the response model would write them, to the byte."""

import math
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from inspect import isclass
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import UUID

import pytest
import pytest_asyncio
from fastapi import APIRouter
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretStr,
    StringConstraints,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass
from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    Dialect,
    Double,
    Float,
    ForeignKey,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
    Uuid,
    bindparam,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import Mapped, aliased, load_only, mapped_column
from sqlalchemy.types import TypeDecorator
from typing_extensions import TypedDict

from ferrule import Ferrule, JsonObject, Module, Price, Schema, Stored, create_app, public
from ferrule.db import Base, Database, Json, Read, ReadSession, Write, WriteSession, prebuilt
from ferrule.http.index import RouteIndex
from ferrule.http.rows import RowWriter
from ferrule.modules import auth
from ferrule.resources.page import Page, Pagination
from ferrule.testing import Actors
from tests.conftest import Answer, ask

API = "/api/v1"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int


class PointType(TypeDecorator[Point]):
    """A type of somebody else, which does not tell its Python type."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Point | None, dialect: Dialect) -> str | None:
        return value if value is None else f"{value.x},{value.y}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> Point | None:
        if value is None:
            return None
        x, y = value.split(",")
        return Point(x=int(x), y=int(y))


class Shouting(TypeDecorator[str]):
    """Text that comes back in capitals."""

    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value.upper()


class Sample(Base):
    __tablename__ = "test_rows_samples"

    text: Mapped[str] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(String(50), default=None)
    number: Mapped[int] = mapped_column(BigInteger)
    small: Mapped[int | None] = mapped_column(SmallInteger, default=None)
    ratio: Mapped[float] = mapped_column(Float)
    double: Mapped[float | None] = mapped_column(Double, default=None)
    price: Mapped[Decimal | None]
    exact: Mapped[Decimal] = mapped_column(Numeric(20, 6, asdecimal=True), default=Decimal(0))
    wild: Mapped[float | None] = mapped_column(Double, default=None)
    inexact: Mapped[float | None] = mapped_column(Numeric(12, 3, asdecimal=False), default=None)
    flag: Mapped[bool]
    maybe: Mapped[bool | None] = mapped_column(default=None)
    at: Mapped[datetime]
    ended: Mapped[datetime | None] = mapped_column(default=None)
    day: Mapped[date | None] = mapped_column(Date, default=None)
    clock: Mapped[time | None] = mapped_column(Time, default=None)
    span: Mapped[timedelta | None] = mapped_column(Interval, default=None)
    key: Mapped[UUID | None] = mapped_column(default=None)
    text_key: Mapped[str | None] = mapped_column(Uuid(as_uuid=False), default=None)
    char_key: Mapped[UUID | None] = mapped_column(Uuid(native_uuid=False), default=None)
    colour: Mapped[Colour] = mapped_column(EnumType(Colour, native_enum=False))
    kind: Mapped[str] = mapped_column(EnumType("a", "b", native_enum=False), default="a")
    data: Mapped[dict[str, Any]] = mapped_column(Json)
    maybe_data: Mapped[dict[str, Any] | None] = mapped_column(Json, default=None)
    tags: Mapped[list[str]] = mapped_column(Json)
    things: Mapped[list[Any]] = mapped_column(Json)
    plain: Mapped[Any] = mapped_column(JSON, nullable=True, default=None)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)
    point: Mapped[Point | None] = mapped_column(PointType, default=None)
    loud: Mapped[str | None] = mapped_column(Shouting, default=None)
    renamed: Mapped[str] = mapped_column("another_name", String(20), default="r")
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", Json, default=dict)
    parent: Mapped[UUID | None] = mapped_column(ForeignKey("test_rows_samples.id"), default=None)

    @property
    def shouted(self) -> str:
        return self.text.upper()


WILD = {
    'é\u2028"\\/\b': ["😀", "", None, True, False, [], {}],
    "numbers": [0, -1, 2**53, -(2**53), 1.5, -0.0, 1e-7, 1e15, 5e-324, 0.1, 1.0, 100.0, 3.0],
    "nested": {"a": {"b": {"c": [{"d": 1}]}}},
    "like a time": "2026-01-01T00:00:00Z",
}

SAMPLES: list[dict[str, Any]] = [
    {
        "text": "plain", "number": 1, "ratio": 0.5, "price": Decimal("1.2"), "flag": True,
        "at": datetime(2026, 1, 1, tzinfo=UTC), "colour": Colour.RED, "data": {}, "tags": [],
        "things": [],
    },
    {
        "text": " É \u2028\u0007\"\\</script> 😀 ", "note": "", "number": -(2**53), "small": -32768,
        "ratio": 0.1, "double": 1e300, "wild": math.inf, "price": Decimal("-999999999999.99"),
        "exact": Decimal("12345678901234.000001"), "inexact": 1.5, "flag": False, "maybe": True,
        "at": datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "ended": datetime(987, 1, 2, 3, 4, 5, 600000, tzinfo=UTC),
        "day": date(2026, 2, 28), "clock": time(1, 2, 3, 400), "span": timedelta(days=1, seconds=5),
        "key": UUID("01A1FC00-8C1C-7BCE-912C-5F2E8BA5785A"),
        "text_key": "01a1fc00-8c1c-7bce-912c-5f2e8ba5785b",
        "char_key": UUID("01a1fc00-8c1c-7bce-912c-5f2e8ba5785c"), "colour": Colour.BLUE,
        "kind": "b", "data": WILD, "maybe_data": {"a": [1.0, 2]}, "tags": ["b", "a", "é", ""],
        "things": [1, 2.0, "3", None, {"x": [0.1]}], "plain": [1, {"a": None}],
        "blob": b"\x00\xffabc", "point": Point(x=1, y=-2), "loud": "loud", "renamed": "ren",
        "metadata_": {"k": "v"},
    },
    {
        "text": "x" * 3000, "number": 2**53, "ratio": 1e-9, "double": 12.0, "price": Decimal(0),
        "exact": Decimal("-0.5"), "flag": True, "maybe": False,
        "at": datetime(2026, 1, 1, 0, 0, 0, 500000, tzinfo=UTC),
        "ended": datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "colour": Colour.RED,
        "data": {"a": 1}, "tags": ["a"], "things": [3, 1], "span": timedelta(microseconds=1),
        "clock": time(23, 59), "metadata_": {"n": 2.0},
    },
]  # fmt: skip


# Response models. The first ones only name columns: with what every stored row answers with, their
# rows are written without them.


def of_stored(model: Any) -> Any:
    """The model with what every stored row answers with, which also leaves its bounds away."""
    if not isclass(model) or not issubclass(model, BaseModel):
        return model
    return type(model.__name__, (model, Stored), {"__module__": __name__})


class Texts(Schema):
    text: str
    note: str | None


class OtherOrder(Schema):
    note: str | None
    number: int
    text: str


class AsStored(Stored):
    text: str
    price: Price | None
    metadata: JsonObject = Field(validation_alias="metadata_")


class MostColumns(BaseModel):
    text: str
    note: str | None
    number: int
    small: int | None
    ratio: float
    double: float | None
    price: Decimal | None
    exact: Decimal
    inexact: float | None
    flag: bool
    maybe: bool | None
    at: datetime
    ended: datetime | None
    day: date | None
    clock: time | None
    key: UUID | None
    char_key: UUID | None
    kind: str
    data: dict[str, Any]
    things: list[Any]
    renamed: str


class Everything(MostColumns):
    span: timedelta | None
    tags: list[str]
    colour: Colour
    plain: Any
    blob: bytes | None
    point: Point | None


class OptionalOfColumns(Schema):
    text: str | None
    number: int | None = None
    data: dict[str, Any] | None = None


class WithBounds(Schema):
    text: Annotated[str, Field(max_length=5000, pattern=".")]
    number: Annotated[int, Field(ge=-(2**53))]
    ratio: Annotated[float, Field(allow_inf_nan=False)]


class OfSchema(Schema):
    number: int
    ratio: float
    at: datetime
    ended: datetime | None
    data: JsonObject
    key: UUID | None


class Documented(Schema):
    """With words only."""

    model_config = ConfigDict(title="Samples", defer_build=True)

    text: str = Field(description="The text.", examples=["a"], title="Text", repr=False)
    number: int = Field(7, deprecated=True, json_schema_extra={"x": 1})


T = TypeVar("T")


class OfType(Schema, Generic[T]):
    text: T
    number: int


FAST: dict[str, Any] = {
    "texts": Texts,
    "other order": OtherOrder,
    "stored": AsStored,
    "optional": OptionalOfColumns,
    "documented": Documented,
    "generic": OfType[str],
}


class Computed(Texts):
    @computed_field
    @property
    def length(self) -> int:
        return len(self.text)


class ValidatesField(Texts):
    @field_validator("text")
    @classmethod
    def _upper(cls, text: str) -> str:
        return text.upper()


class ValidatesBefore(Texts):
    @field_validator("note", mode="before")
    @classmethod
    def _none(cls, note: Any) -> Any:
        return note or "none"


class ValidatesModel(Texts):
    @model_validator(mode="after")
    def _change(self) -> Any:
        self.note = "changed"
        return self


class ValidatesModelBefore(Texts):
    @model_validator(mode="before")
    @classmethod
    def _change(cls, row: Any) -> Any:
        return {"text": row.text, "note": f"of {type(row).__name__ != ''}"}


class InheritsValidator(ValidatesField):
    number: int


class SerializesField(Texts):
    at: datetime

    @field_serializer("at")
    def _year(self, at: datetime) -> int:
        return at.year


class SerializesModel(Texts):
    @model_serializer
    def _as_list(self) -> list[Any]:
        return [self.text, self.note]


class AfterInit(Texts):
    def model_post_init(self, context: Any) -> None:
        self.note = "after init"


class OwnInit(Texts):
    def __init__(self, **values: Any) -> None:
        super().__init__(**{**values, "note": "own"})


class Stripping(Texts):
    model_config = ConfigDict(str_strip_whitespace=True)


class Lower(BaseModel):
    model_config = ConfigDict(str_to_lower=True)

    text: str


class Upper(BaseModel):
    model_config = ConfigDict(str_to_upper=True)

    text: str
    tags: list[str]


class Seconds(BaseModel):
    model_config = ConfigDict(ser_json_temporal="seconds")

    at: datetime
    span: timedelta | None
    day: date | None


class FloatSpan(BaseModel):
    model_config = ConfigDict(ser_json_timedelta="float")

    span: timedelta | None


class InfinityAsText(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    wild: float | None


class InfinityAsConstant(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    wild: float | None


class InfinityAsNull(BaseModel):
    wild: float | None


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    text_key: str | None
    char_key: UUID | None
    renamed: str


class Allowing(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str


class Coercing(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    number: str
    text: str


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    text: str
    number: int
    at: datetime


class Constrained(BaseModel):
    text: Annotated[str, StringConstraints(strip_whitespace=True)]


class ConstrainedUpper(BaseModel):
    text: Annotated[str, StringConstraints(to_upper=True)] | None


class Aliased(BaseModel):
    text: str = Field(alias="renamed")
    label: str = Field(validation_alias="text", serialization_alias="Label")


class Chosen(BaseModel):
    label: str = Field(validation_alias=AliasChoices("nothing", "text"))
    first: Any = Field(None, validation_alias=AliasPath("tags", 0))


class SerializedAs(BaseModel):
    text: str = Field(serialization_alias="Text")
    id: UUID = Field(serialization_alias="ID")


class RenamedOnly(BaseModel):
    label: str = Field(validation_alias="text")
    when: datetime = Field(validation_alias="at")
    other: UUID | None = Field(validation_alias="key")


class Excluding(BaseModel):
    text: str
    number: int = Field(exclude=True)


class ExcludingIf(BaseModel):
    text: str
    note: str | None = Field(exclude_if=lambda note: note is None)
    number: int = Field(exclude_if=lambda number: number > 0)


class WithDefault(BaseModel):
    text: str
    absent: int = 7


class WithDefaultForNull(BaseModel):
    text: str
    note: str = "default"


class Literals(BaseModel):
    kind: Literal["a", "b"]
    flag: Literal[True, False]


class Enums(BaseModel):
    colour: Colour


class EnumValues(BaseModel):
    model_config = ConfigDict(use_enum_values=True)

    colour: Colour
    kind: Literal["a", "b"]


class OtherTypes(BaseModel):
    number: float
    ratio: Decimal
    day: datetime | None
    at: date | datetime
    flag: int
    price: float | None
    small: str | int | None


class Anything(BaseModel):
    text: Any
    at: Any
    key: Any
    data: Any
    price: Any
    colour: Any
    span: Any


class Nested(BaseModel):
    class Data(BaseModel):
        model_config = ConfigDict(extra="ignore")

        a: int = 0

    data: Data
    maybe_data: Data | None


class Keys(BaseModel):
    key: UUID | None
    text_key: str | None
    char_key: UUID | None
    parent: UUID | None


class TextKeyAsUuid(BaseModel):
    text_key: UUID | None


class Foreign(BaseModel):
    point: Point | None
    loud: str | None


class Blob(BaseModel):
    model_config = ConfigDict(ser_json_bytes="hex")

    blob: bytes | None


class Blob64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")

    blob: bytes | None
    text: str


class PlainJson(BaseModel):
    plain: Any
    tags: tuple[str, ...]
    things: list[int | float | str | dict[str, Any] | None]


class JsonAsFloats(BaseModel):
    maybe_data: dict[str, list[float]] | None


class JsonOfWholes(BaseModel):
    metadata: dict[str, str | int] = Field(validation_alias="metadata_")


class Doubled(BaseModel):
    number: Annotated[int, AfterValidator(lambda number: number * 2)]
    text: Annotated[str, BeforeValidator(str.strip)]
    ratio: Annotated[float, PlainSerializer(lambda ratio: f"{ratio:.2f}")]


Name = NewType("Name", str)


class Named(BaseModel):
    text: Name
    note: SecretStr | None


class JustText(Stored):
    text: str


class OfList(RootModel[list[Texts]]):
    pass


class Text20(str):
    pass


class Ratio(BaseModel):
    """A part of another, with a core schema of its own."""

    text: str

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls._changed, handler(source))

    @classmethod
    def _changed(cls, made: Any) -> Any:
        made.text = made.text[:3]
        return made


@dataclass
class AsDataclass:
    text: str
    number: int


class AsTypedDict(TypedDict):
    text: str


ORDINARY: dict[str, Any] = {
    # Of floats, which may be infinite, and of bounds, which a stored row may exceed.
    "most columns": MostColumns,
    "with bounds": WithBounds,
    "of schema": OfSchema,
    "everything": Everything,
    "computed": Computed,
    "validates field": ValidatesField,
    "validates before": ValidatesBefore,
    "validates model": ValidatesModel,
    "validates model before": ValidatesModelBefore,
    "inherits validator": InheritsValidator,
    "serializes field": SerializesField,
    "serializes model": SerializesModel,
    "after init": AfterInit,
    "own init": OwnInit,
    "stripping": Stripping,
    "lower": Lower,
    "upper": Upper,
    "seconds": Seconds,
    "float span": FloatSpan,
    "infinity as text": InfinityAsText,
    "infinity as constant": InfinityAsConstant,
    "infinity as null": InfinityAsNull,
    "camel": Camel,
    "allowing": Allowing,
    "coercing": Coercing,
    "strict": Strict,
    "constrained": Constrained,
    "constrained upper": ConstrainedUpper,
    "aliased": Aliased,
    "chosen": Chosen,
    "serialized as": SerializedAs,
    "renamed": RenamedOnly,
    "excluding": Excluding,
    "excluding if": ExcludingIf,
    "with default": WithDefault,
    "with default for null": WithDefaultForNull,
    "literals": Literals,
    "enums": Enums,
    "enum values": EnumValues,
    "other types": OtherTypes,
    "anything": Anything,
    "nested": Nested,
    "keys": Keys,
    "text key as UUID": TextKeyAsUuid,
    "foreign": Foreign,
    "blob": Blob,
    "blob in base 64": Blob64,
    "plain JSON": PlainJson,
    "JSON as floats": JsonAsFloats,
    "JSON of wholes": JsonOfWholes,
    "doubled": Doubled,
    "named": Named,
    "own core schema": Ratio,
    "dataclass": AsDataclass,
    "typed dict": AsTypedDict,
    "any": Any,
}
"""What changes values, or may; the fast way may be taken where it makes no difference."""

SELECTED = prebuilt(select(Sample).order_by(Sample.id))
ONE = prebuilt(select(Sample).where(Sample.text == bindparam("text")))
NEW = prebuilt(insert(Sample))


class Listed(BaseModel, Generic[T]):
    total: int
    items: list[T]
    more: str | None = None


async def one_row(session: ReadSession) -> Any:
    return (await session.fetch_all(SELECTED))[1]


async def another_row(session: ReadSession) -> Any:
    return await session.fetch_one(ONE, text="plain")


async def rows(session: ReadSession) -> Any:
    return await session.fetch_all(SELECTED)


async def some_rows(session: ReadSession) -> Any:
    return (await session.fetch_all(SELECTED))[1:]


async def list_of_rows(session: ReadSession) -> Any:
    return list(await session.fetch_all(SELECTED))


async def no_rows(session: ReadSession) -> Any:
    return (await session.fetch_all(SELECTED))[:0]


async def page(session: ReadSession) -> Any:
    return {"items": await session.fetch_all(SELECTED), "total": 3, "more": None}


async def page_of_list(session: ReadSession) -> Any:
    return {"more": None, "items": list(await session.fetch_all(SELECTED)), "total": 3}


async def page_with_default(session: ReadSession) -> Any:
    return {"items": await session.fetch_all(SELECTED), "total": 3}


async def one_instance(session: ReadSession) -> Any:
    return await session.scalar(select(Sample).where(Sample.text == "plain"))


async def instances(session: ReadSession) -> Any:
    return list((await session.execute(select(Sample).order_by(Sample.id))).scalars())


async def page_of_instances(session: ReadSession) -> Any:
    return {"items": await instances(session), "total": 0, "more": None}


async def model_of_rows(session: ReadSession) -> Any:
    return Listed[Any](items=list(await session.fetch_all(SELECTED)), total=1)


WAYS: dict[Callable[[ReadSession], Any], Callable[[Any], Any]] = {
    one_row: lambda model: model,
    another_row: lambda model: model,
    rows: lambda model: list[model],
    some_rows: lambda model: list[model],
    list_of_rows: lambda model: list[model],
    no_rows: lambda model: list[model],
    page: lambda model: Listed[model],
    page_of_list: lambda model: Listed[model],
    page_with_default: lambda model: Listed[model],
    one_instance: lambda model: model,
    instances: lambda model: list[model],
    page_of_instances: lambda model: Listed[model],
    model_of_rows: lambda model: Listed[Any],
}
"""What endpoints may answer, and the response model around that of the rows."""
OF_WRITE = (rows, one_instance, page_of_instances)


class Number(Stored):
    number: int


class Total(BaseModel):
    total: int | None
    items: list[Number]


class TextOrNumber(BaseModel):
    total: int | str
    items: list[Number]


class TwoLists(BaseModel):
    first: list[Number]
    items: list[Texts]


class WithPart(BaseModel):
    part: Point
    items: list[Number]


class WithBoundsOnPage(BaseModel):
    items: list[Number] = Field(max_length=2)
    total: int = Field(le=5)


class WithAliasOnPage(BaseModel):
    items: list[Number] = Field(serialization_alias="rows")
    total: int = Field(exclude_if=lambda total: total == 0)


class SortedPage(BaseModel):
    items: list[Number]

    @field_validator("items")
    @classmethod
    def _sorted(cls, items: list[Number]) -> list[Number]:
        return sorted(items, key=lambda item: item.number)


class AfterInitPage(BaseModel):
    items: list[Number]

    def model_post_init(self, context: Any) -> None:
        self.items.reverse()


class JsonOfTimes(Stored):
    data: dict[str, datetime]


class JsonOfDecimals(Stored):
    things: list[Decimal]


class JsonOfFloats(Stored):
    things: list[float]


class JsonOfIntegers(Stored):
    things: list[int]


class JsonOfUuids(Stored):
    tags: list[UUID]


class JsonOfBooleans(Stored):
    things: list[bool]


class JsonByNumber(Stored):
    data: dict[int, str]


class JsonOfTexts(Stored):
    data: dict[str, str]


class Joined(Stored):
    text: str
    of_parent: str


class JoinedOrNone(Stored):
    text: str
    of_parent: str | None


class Counted(BaseModel):
    count: int | None
    highest: int | None
    price: Decimal | None


class Unknown(Stored):
    text: str
    value: str | None


class Shortened(BaseModel):
    text: Annotated[str, Field(max_length=5)]


class WholePrice(Schema):
    """Decimals of a Schema have two places."""

    exact: Decimal


class Narrow(Schema):
    at: datetime
    number: Annotated[int, Field(ge=5)]


class Shouted(Stored):
    text: str
    shouted: str


parents = aliased(Sample)
OF_STORED = (Sample.id, Sample.revision, Sample.created_at, Sample.updated_at)
JOINED = prebuilt(
    select(*OF_STORED, Sample.text, parents.text.label("of_parent"))
    .outerjoin(parents, parents.id == Sample.parent)
    .order_by(Sample.id)
)
COUNTED = prebuilt(
    select(
        func.count(Sample.id).label("count"),
        func.max(Sample.number).label("highest"),
        func.sum(Sample.price).label("price"),
    )
)
UNKNOWN = prebuilt(
    select(*OF_STORED, Sample.text, literal_column("'a'").label("value")).order_by(Sample.id)
)
CASTED = prebuilt(
    select(
        *OF_STORED,
        (Sample.text + "!").label("text"),
        func.nullif(Sample.note, "x").label("value"),
    ).order_by(Sample.id)
)


def all_of(statement: Any) -> Any:
    async def find(session: ReadSession) -> Any:
        return await session.fetch_all(statement)

    return find


def with_parts(**parts: Any) -> Any:
    async def find(session: ReadSession) -> Any:
        return {"items": await session.fetch_all(SELECTED), **parts}

    return find


def changed(change: Callable[[Any], object]) -> Any:
    async def find(session: ReadSession) -> Any:
        row = (await session.fetch_all(SELECTED))[1]
        change(row)
        return row

    return find


def changed_instance(change: Callable[[Any], object]) -> Any:
    async def find(session: ReadSession) -> Any:
        # What a Read session gave is not stored when it changes.
        found = (await session.execute(select(Sample).order_by(Sample.id))).scalars().all()[1]
        change(found)
        session.expunge(found)
        return found

    return find


def changed_in_place(change: Callable[[Any], object]) -> Any:
    async def find(session: ReadSession) -> Any:
        found = (await session.execute(select(Sample).order_by(Sample.id))).scalars().all()[1]
        change(found)
        return found

    return find


def json_of(**values: Any) -> Any:
    async def find(session: ReadSession) -> Any:
        row = (await session.fetch_all(SELECTED))[0]
        for name, value in values.items():
            setattr(row, name, value)
        return row

    return find


async def two_lists(session: ReadSession) -> Any:
    found = await session.fetch_all(SELECTED)
    return {"items": found, "first": list(found)[:1]}


async def mixed_rows(session: ReadSession) -> Any:
    return [*await session.fetch_all(JOINED), *await session.fetch_all(UNKNOWN)]


async def rows_and_others(session: ReadSession) -> Any:
    return [*await session.fetch_all(SELECTED), OTHER, Number(**OTHER)]


async def mixed_page(session: ReadSession) -> Any:
    return {"items": [*await session.fetch_all(SELECTED), OTHER], "total": 4}


async def rows_and_instances(session: ReadSession) -> Any:
    return [*await instances(session), *await rows(session)]


async def tuple_of_rows(session: ReadSession) -> Any:
    return tuple(await session.fetch_all(SELECTED))


async def of_two_sessions(session: ReadSession) -> Any:
    async with session.kit[Database].read() as other:
        return [*await instances(session), *await instances(other)]


async def closed_session(session: ReadSession) -> Any:
    async with session.kit[Database].read() as other:
        return await instances(other)


async def partly_loaded(session: ReadSession) -> Any:
    statement = select(Sample).options(load_only(Sample.text, *OF_STORED[1:])).order_by(Sample.id)
    return list((await session.execute(statement)).scalars())


async def inserted(session: WriteSession) -> Any:
    values = {**SAMPLES[1], "price": Decimal("1.5"), "at": datetime(2026, 1, 1, tzinfo=FAR)}
    return session.insert(NEW, **values)


async def added(session: WriteSession) -> Any:
    values = {**SAMPLES[1], "price": Decimal("1.5"), "at": datetime(2026, 1, 1, tzinfo=FAR)}
    sample = Sample(**values)
    session.add(sample)
    return sample


PAGINATION = Pagination(limit=1, offset=0, page=None, total=3, next="x")
OTHER: dict[str, Any] = {
    "number": 7,
    "id": UUID(int=7),
    "revision": 1,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
}
FAR = timezone(timedelta(hours=5, minutes=30))

CASES: dict[str, tuple[Any, Any]] = {
    "part is a number": (Total, with_parts(total=3)),
    "part is text": (Total, with_parts(total="3")),
    "part is no number": (Total, with_parts(total="many")),
    "part is a float": (Total, with_parts(total=3.0)),
    "part is a truth value": (Total, with_parts(total=True)),
    "part is null": (Total, with_parts(total=None)),
    "part is missing": (Total, with_parts()),
    "part is too much": (Total, with_parts(total=1, more=2)),
    "part is a list": (Total, with_parts(total=[1])),
    "text that may be null is a number": (Listed[Number], with_parts(total=1, more=5)),
    "text that may be null": (Listed[Number], with_parts(total=1, more="é")),
    "page of a list": (Page[Number], with_parts(pagination=PAGINATION)),
    "page with a dict": (Page[Number], with_parts(pagination=PAGINATION.model_dump())),
    "large number": (
        Page[Number],
        with_parts(pagination=PAGINATION.model_copy(update={"total": 2**60})),
    ),
    "number that is null": (Listed[Number], with_parts(total=None)),
    "part of two types": (TextOrNumber, with_parts(total="3")),
    "two lists": (TwoLists, two_lists),
    "part is a model": (WithPart, with_parts(part=Point(x=1, y=2))),
    "part is another model": (WithPart, with_parts(part=Total(total=1, items=[]))),
    "part is a dict": (WithPart, with_parts(part={"x": 1, "y": "2"})),
    "page with bounds": (WithBoundsOnPage, with_parts(total=6)),
    "page with alias": (WithAliasOnPage, with_parts(total=0)),
    "sorted page": (SortedPage, with_parts()),
    "page with init": (AfterInitPage, with_parts()),
    "dict of lists": (dict[str, list[Number]], with_parts()),
    "mixed rows": (list[Any], mixed_rows),
    "rows and others": (list[Number], rows_and_others),
    "mixed page": (Total, mixed_page),
    "rows and instances": (list[Number], rows_and_instances),
    "tuple of rows": (list[Number], tuple_of_rows),
    "list or null": (list[Number] | None, rows),
    "row or null": (Number | None, one_row),
    "list of two": (Annotated[list[Number], Field(max_length=2)], rows),
    "set": (set[of_stored(Texts)], rows),
    "row for a list": (list[Number], one_row),
    "rows for one": (Number, rows),
    "instances of two sessions": (list[Number], of_two_sessions),
    "instances of a closed session": (list[Number], closed_session),
    "partly loaded": (list[JustText], partly_loaded),
    "property": (Shouted, one_instance),
    "property of a row": (Shouted, one_row),
    "outer join": (list[Joined], all_of(JOINED)),
    "outer join with null": (list[JoinedOrNone], all_of(JOINED)),
    "aggregates": (list[Counted], all_of(COUNTED)),
    "unknown type": (list[Unknown], all_of(UNKNOWN)),
    "expressions": (list[Unknown], all_of(CASTED)),
    "changed row": (of_stored(Texts), changed(lambda row: setattr(row, "note", "changed"))),
    "row of another type": (of_stored(Texts), changed(lambda row: setattr(row, "note", 5))),
    "row with null": (of_stored(Texts), changed(lambda row: setattr(row, "text", None))),
    "row with more": (of_stored(Texts), changed(lambda row: setattr(row, "more", 1))),
    "row with less": (of_stored(Texts), changed(lambda row: delattr(row, "note"))),
    "row with a property": (Shouted, changed(lambda row: setattr(row, "shouted", "É"))),
    "row with text for an id": (
        of_stored(Keys),
        changed(lambda row: setattr(row, "key", "01A1FC008C1C7BCE912C5F2E8BA5785A")),
    ),
    "row with a local time": (
        of_stored(OfSchema),
        changed(lambda row: setattr(row, "at", row.at.astimezone(FAR))),
    ),
    "row with text for a time": (
        of_stored(OfSchema),
        changed(lambda row: setattr(row, "at", "2026-01-01 00:00Z")),
    ),
    "row with a float for a decimal": (AsStored, changed(lambda row: setattr(row, "price", 1.5))),
    "changed instance": (
        of_stored(Texts),
        changed_instance(lambda row: setattr(row, "note", "changed")),
    ),
    "instance with changed JSON": (
        AsStored,
        changed_in_place(lambda row: row.metadata_.update(new=[1])),
    ),
    "JSON of times": (JsonOfTimes, json_of(data={"a": "2026-01-01 00:00:00+00:00"})),
    "JSON of numbers for times": (JsonOfTimes, json_of(data={"a": 5})),
    "JSON of decimals": (JsonOfDecimals, json_of(things=[1.5, "1.50", 2])),
    "JSON of floats": (JsonOfFloats, json_of(things=[1, 2.5, True])),
    "JSON of texts for floats": (JsonOfFloats, json_of(things=["1.5"])),
    "JSON of integers": (JsonOfIntegers, json_of(things=[1, 2.0, "3"])),
    "JSON of ids": (JsonOfUuids, json_of(tags=["01A1FC008C1C7BCE912C5F2E8BA5785A"])),
    "JSON of truth values": (JsonOfBooleans, json_of(things=[1, "yes", False])),
    "JSON by number": (JsonByNumber, json_of(data={"1": "a"})),
    "JSON of numbers for texts": (JsonOfTexts, json_of(data={"a": 1})),
    "written row": (of_stored(Everything), inserted),
    "written instance": (of_stored(Everything), added),
    "written instances": (list[of_stored(Everything)], instances),
}
"""What endpoints may answer, and their response models."""

REFUSED: dict[str, tuple[Any, Any]] = {
    "too long": (Shortened, one_row),
    "too many places": (WholePrice, one_row),
    "too small": (Narrow, one_row),
}
"""Rows that are refused by bounds of the response model, as those of a client would be."""
CASES |= REFUSED
CASES |= {
    f"{name} where bounds do not count": (of_stored(model), find)
    for name, (model, find) in REFUSED.items()
    if find is one_row
}


def routes_of(name: str) -> APIRouter:
    router = APIRouter()

    def add(path: str, find: Any, model: Any, session: Any = Read) -> None:
        async def endpoint(session: Any) -> Any:
            return await find(session)

        endpoint.__annotations__["session"] = session
        router.add_api_route(path, endpoint, response_model=model)

    if name in CASES:
        model, find = CASES[name]
        add("/x", find, model, Write if name.startswith("written") else Read)
        return router
    model = {**FAST, **ORDINARY}[name]
    for find in (one_row, rows, page):
        add(f"/bare_{find.__name__}", find, WAYS[find](model))
    for find, around in WAYS.items():
        add(f"/{find.__name__}", find, around(of_stored(model)))
    for find in OF_WRITE:
        add(f"/w_{find.__name__}", find, WAYS[find](of_stored(model)), Write)
    return router


@pytest.fixture
def application(request: pytest.FixtureRequest) -> Ferrule:
    if "name" not in request.fixturenames:
        return create_app()
    router = routes_of(request.getfixturevalue("name"))
    return create_app(modules=[auth.module, Module(name="rows", router=router, access=public)])


@pytest_asyncio.fixture
async def samples(app: Ferrule) -> AsyncIterator[Ferrule]:
    """The application with three samples in its database."""
    database = app.kit[Database]
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables=[Sample.__table__])
    async with database.write() as session:
        for number, values in enumerate(SAMPLES):
            session.add(Sample(id=UUID(int=number + 1), **values))
    yield app
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all, tables=[Sample.__table__])


class Written:
    """Asks in both ways, and knows whether the rows were written without their model."""

    def __init__(self, app: Ferrule, patch: pytest.MonkeyPatch) -> None:
        self.fast = False
        self._app, self._patch = app, patch
        write = RowWriter.write

        def noted(writer: RowWriter, answered: Any) -> bytes | None:
            written = write(writer, answered)
            self.fast = written is not None
            return written

        patch.setattr(RowWriter, "write", noted)

    async def __call__(self, path: str) -> tuple[Answer, Answer]:
        """The answer, and that of FastAPI alone."""
        self.fast = False
        planned = await ask(self._app, "GET", f"{API}/{path}")
        with self._patch.context() as patch:
            patch.setattr(RouteIndex, "_find", lambda index, scope: None)
            return planned, await ask(self._app, "GET", f"{API}/{path}")

    async def different(self, path: str) -> str | None:
        """In what the answers differ."""
        planned, plain = await self(path)
        if (planned.status, planned.body) == (plain.status, plain.body):
            return None
        return f"{planned.status} {planned.body[:300]!r}, not {plain.status} {plain.body[:300]!r}"


@pytest.fixture
def written(samples: Ferrule, monkeypatch: pytest.MonkeyPatch) -> Written:
    monkeypatch.setattr("ferrule.http.edge.log_request", lambda **_: None)
    monkeypatch.setattr("ferrule.http.problems.log", type("Log", (), {"error": lambda *_, **__: 0}))
    return Written(samples, monkeypatch)


PATHS = [*(find.__name__ for find in WAYS), *(f"w_{find.__name__}" for find in OF_WRITE)]


@pytest.mark.parametrize("name", {**FAST, **ORDINARY})
async def test_rows_are_written_as_their_models_would(written: Written, name: str) -> None:
    paths = [*PATHS, "bare_one_row", "bare_rows", "bare_page"]
    different = {path: await written.different(path) for path in paths}
    assert {path: how for path, how in different.items() if how} == {}


@pytest.mark.parametrize("name", FAST)
async def test_models_that_only_name_columns_are_left_away(
    written: Written, name: str, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--plain"):
        pytest.skip("with --plain every model is asked")
    slow = set()
    for path in PATHS:
        await written(path)
        if not written.fast:
            slow.add(path)
    written_ones = {"w_one_instance", "w_page_of_instances"}
    assert slow == {"page_with_default", "model_of_rows", *written_ones}


# What is written is compared, not what Pydantic thinks of it meanwhile.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", CASES)
async def test_answers_are_those_of_the_response_model(written: Written, name: str) -> None:
    planned, plain = await written("x")
    assert (planned.status, _same(planned.body)) == (plain.status, _same(plain.body))


def _same(body: bytes) -> bytes:
    """Without what is different each time."""
    return re.sub(rb'"(created_at|updated_at|id)":"[^"]*"', b"", body)


async def test_items_are_written_without_their_model(
    monkeypatch: pytest.MonkeyPatch, actors: Actors, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--plain"):
        pytest.skip("with --plain every model is asked")
    fast: list[bool] = []
    write = RowWriter.write

    def noted(writer: RowWriter, answered: Any) -> bytes | None:
        fast.append((written := write(writer, answered)) is not None)
        return written

    monkeypatch.setattr(RowWriter, "write", noted)
    ann = await actors("ann")
    made = await ann.post(f"{API}/items", json={"name": "Milk", "price": "1.5"})
    assert (await ann.get(made.headers["Location"])).json() == made.json()
    assert (await ann.get(f"{API}/items")).json()["items"] == [made.json()]
    assert fast == [True] * 3
