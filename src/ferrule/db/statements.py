"""Statements that are compiled once and run on the driver: a fifth of what the ORM takes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, ClassVar, Protocol, cast, overload
from uuid import UUID

from sqlalchemy import (
    Dialect,
    Float,
    Insert,
    Numeric,
    Select,
    Table,
    Uuid,
    bindparam,
    insert,
    inspect,
)
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.compiler import SQLCompiler

from ferrule.db.types import UtcDateTime
from ferrule.errors import ConfigurationError

Convert = Callable[[Any], Any]
NUMERIC, FLOAT = 1700, 701
"""Type numbers of PostgreSQL, by which SQLAlchemy's numbers know what the driver gives them."""


NEW = "new "
"""Before the names of an INSERT's values: those of the columns are reserved by SQLAlchemy."""


Values = dict[str, Any]
"""The values of a row, by the names that the model's attributes have."""


Writing = Callable[[tuple[str, ...]], Convert]
"""From names to what makes those values of a record."""


class Row:
    """A row of a prebuilt statement: it has the attributes that an instance of the model has.

    It is no instance: setting an attribute changes nothing that is stored.
    """

    columns: ClassVar[Mapping[str, Any]] = {}
    """The columns that its statement selects, by the names of the attributes."""

    def __init__(self, values: Values) -> None:
        self.__dict__ = values

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"The statement selects no {name!r}.")

    def __repr__(self) -> str:
        return f"Row({', '.join(self.__dict__)})"


class Rows(Sequence[Row]):
    """The rows of a prebuilt statement; each is made when it is asked for."""

    def __init__(
        self, records: Sequence[Any], row: type[Row], values: Convert, writing: Writing
    ) -> None:
        self.row = row
        self._records = records
        self._values = values
        self._writing = writing

    def written(self, names: tuple[str, ...]) -> list[Values]:
        """These values of all rows, in this order, as JSON has them where those are had sooner."""
        return list(map(self._writing(names), self._records))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        if isinstance(index, slice):
            return Rows(self._records[index], self.row, self._values, self._writing)
        return self.row(self._values(self._records[index]))

    def __len__(self) -> int:
        return len(self._records)


class Driver(Protocol):
    """Runs compiled statements. Failures are raised as SQLAlchemy's `DBAPIError`."""

    async def fetch(self, statement: "Prebuilt", values: Mapping[str, Any]) -> Rows:
        """The rows of a statement that reads, which runs by itself."""
        ...

    async def write(
        self, writes: Sequence[tuple["Prebuilt", Mapping[str, Any]]]
    ) -> list[Sequence[Any]]:
        """Run statements in one transaction, which is committed when this returns.

        The records of each, as the driver gives them.
        """
        ...

    async def close(self) -> None:
        """Finish what was begun, and let go of what is held."""
        ...


class Compiled:
    """A statement as one dialect has it: text, how values are bound, how rows are read."""

    def __init__(self, statement: Any, columns: Sequence[Any], dialect: Dialect) -> None:
        compiler = cast(SQLCompiler, statement.compile(dialect=dialect))
        if compiler.post_compile_params:
            raise ConfigurationError(
                "A prebuilt statement cannot hold IN with a list, whose length is not known "
                "beforehand: use session.execute."
            )
        self.text = str(compiler)
        self._binds = [self._bind(compiler, name, dialect) for name in compiler.positiontup or ()]
        read = [(column.key, _reader(column.type, dialect)) for column in columns]
        self.values = maker(read)
        """The values of a record that the driver gave."""
        texts = [_writer(column.type, dialect) for column in columns]
        self.writing = writing(
            [(key, text or convert) for (key, convert), text in zip(read, texts, strict=True)]
        )
        """Some of the same as JSON has them, where those are had sooner."""

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """What the driver is given. Raises KeyError for a value that is missing."""
        return [
            given(values) if convert is None else convert(given(values))
            for given, convert in self._binds
        ]

    @staticmethod
    def _bind(compiler: SQLCompiler, name: str, dialect: Dialect) -> tuple[Any, Any]:
        """How a parameter's value is had, and how it is converted for the driver."""
        bind = compiler.binds[name]
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        if bind.required:
            return itemgetter(bind.key.removeprefix(NEW)), convert
        if bind.unique and bind.callable is None:
            constant = convert(bind.value) if convert else bind.value
            return _always(constant), None

        def given(values: Values) -> Any:
            return values.get(bind.key, bind.effective_value)

        return given, convert


class Prebuilt:
    """A statement that reads, made by `prebuilt`."""

    def __init__(self, statement: Any) -> None:
        self.columns = list(_expanded(statement))
        self.statement: Any = statement.with_only_columns(*self.columns, maintain_column_froms=True)
        first: dict[str, Any] = {}
        for label in self.columns:
            first.setdefault(label.key, label.element)
        froms = self.statement.get_final_froms()
        # An outer join gives null where the column has none: nothing is known of such rows.
        self.row = _row_class(first if len(froms) == 1 and isinstance(froms[0], Table) else {})
        named = [(label.key, None) for label in self.columns]
        self.named, self.naming = maker(named), writing(named)
        """The values of a row that SQLAlchemy gives, and some of them."""
        self._compiled: dict[str, Compiled] = {}

    def check_reading(self) -> None:
        """Raise `TypeError` for what is no statement that reads."""

    def compiled(self, dialect: Dialect) -> Compiled:
        """As this dialect has it; compiled at the first use."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = Compiled(self.statement, self.columns, dialect)
            self._compiled[dialect.name] = found
        return found


class PrebuiltInsert(Prebuilt):
    """A statement that stores one new row of a model, made by `prebuilt`."""

    def __init__(self, statement: Any) -> None:
        mapper: Mapper[Any] = inspect(statement.entity_description["entity"])
        self._mapper = mapper
        self.columns: list[Any] = []
        self._fields = [
            (mapper.get_property_by_column(column).key, column, _default(mapper, column))
            for column in mapper.local_table.columns
        ]
        self._ways: list[tuple[str, Convert | None, Convert]] = [
            (key, _normal(column), default) for key, column, default in self._fields
        ]
        binds = {
            column.name: bindparam(NEW + key, type_=column.type) for key, column, _ in self._fields
        }
        self.statement = insert(cast(Any, mapper.local_table)).values(binds)
        self.row = _row_class({key: column for key, column, _ in self._fields})
        self._compiled = {}

    def check_reading(self) -> None:
        raise TypeError("A new row is stored by a Write session, with session.insert(…).")

    def parameters(self, row: Values) -> Values:
        """What `session.execute(insert.statement, …)` is given."""
        return {NEW + key: value for key, value in row.items()}

    def values(self, values: Mapping[str, Any]) -> Values:
        """What will be stored: these values, and the model's defaults for the rest."""
        row: Values = {}
        given = _Given(values, row, self._mapper)
        if unknown := values.keys() - self.row.columns.keys():
            raise TypeError(f"{self._mapper.class_.__name__} has no {', '.join(sorted(unknown))}.")
        for key, normal, default in self._ways:
            if key not in values:
                row[key] = default(given)
            elif normal is None:
                row[key] = values[key]
            else:
                row[key] = normal(values[key])
        return row


class PrebuiltWrite(Prebuilt):
    """A statement that writes, for a driver's `write`."""

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self.columns = []
        self._compiled = {}

    def check_reading(self) -> None:
        raise TypeError("It writes.")


@overload
def prebuilt(statement: Insert) -> PrebuiltInsert: ...
@overload
def prebuilt(statement: Select[*tuple[Any, ...]]) -> Prebuilt: ...
def prebuilt(statement: Select[*tuple[Any, ...]] | Insert) -> Prebuilt:
    """A statement that is compiled once, for the paths that are walked most.

        MINE = prebuilt(select(Note).where(Note.id == bindparam("id")))
        NEW = prebuilt(insert(Note))

        row = await session.fetch_one(MINE, id=id)
        row = session.insert(NEW, text="…")

    Build it at module level; what changes between calls is a `bindparam`. A model in `select`
    stands for all its columns.
    """
    if isinstance(statement, Insert):
        return PrebuiltInsert(statement)
    if isinstance(cast(Any, statement), Select):
        return Prebuilt(statement)
    raise TypeError("Only select(…) and insert(Model) can be prebuilt: use session.execute.")


def _normal(column: Any) -> Convert | None:
    """What brings a value into the form in which the column gives it back."""
    return getattr(column.type, "normal", None)


def _row_class(columns: Mapping[str, Any]) -> type[Row]:
    return type("Row", (Row,), {"columns": columns})


def _expanded(statement: Select[*tuple[Any, ...]]) -> Iterator[Any]:
    """The selected columns, those of models labelled by the names of their attributes."""
    for described in statement.column_descriptions:
        entity = described["expr"]
        inspected: Any = inspect(entity, raiseerr=False)
        if isinstance(inspected, Mapper):
            for attribute in cast(Any, inspected).column_attrs:
                yield getattr(entity, attribute.key).label(attribute.key)
        else:
            yield entity.label(described["name"])


@dataclass(slots=True)
class _Given:
    """What a new row is made of, as SQLAlchemy hands it to a default that looks at other columns.

    That are the values that were given, and those made so far.
    """

    values: Mapping[str, Any]
    row: Values
    mapper: Mapper[Any]

    def get_current_parameters(self) -> Values:
        columns = {each.key: each.columns[0].key for each in self.mapper.column_attrs}
        return {columns[key]: value for key, value in {**self.values, **self.row}.items()}


def _default(mapper: Mapper[Any], column: Any) -> Callable[[Any], Any]:
    """What a column gets that no value was given for."""
    if column is mapper.version_id_col:
        first = cast(Any, mapper.version_id_generator)(None)
        return lambda given: first
    default = column.default
    if default is None:
        if not column.nullable or column.server_default is not None:
            return lambda given: _missing(column)
        return lambda given: None
    if default.is_clause_element or default.is_sequence:
        raise ConfigurationError(
            f"{column.table.name}.{column.name} has a default of SQL, which a prebuilt insert "
            f"cannot know: use session.add."
        )
    if default.is_callable:
        return default.arg
    return lambda given: default.arg


def _missing(column: Any) -> Any:
    raise TypeError(f"{column.table.name}.{column.name} has no default: give it a value.")


def maker(
    columns: Sequence[tuple[str, Convert | None]], names: Iterable[str] | None = None
) -> Convert:
    """A function from a record to its values by name; of columns of one name it has the first.

    With `names` it has those alone, in their order. It is written out, as a named tuple's is: going
    through the columns takes twice as long.
    """
    parts: dict[str, str] = {}
    scope: dict[str, Any] = {}
    for index, (name, convert) in enumerate(columns):
        scope[f"c{index}"] = convert
        parts.setdefault(name, f"r[{index}]" if convert is None else f"c{index}(r[{index}])")
    source = ", ".join(f"{name!r}: {parts[name]}" for name in (parts if names is None else names))
    return eval(f"lambda r: {{{source}}}", scope)  # noqa: S307  our own text


def writing(columns: Sequence[tuple[str, Convert | None]]) -> Writing:
    """Makers of some of these columns; those of a few answers are kept."""

    @lru_cache(maxsize=16)
    def made(names: tuple[str, ...]) -> Convert:
        return maker(columns, names)

    return made


def _always(value: Any) -> Callable[[Values], Any]:
    return lambda values: value


def _is_uuid(kind: Any) -> bool:
    return isinstance(kind, Uuid) and cast(Any, kind).as_uuid


def _reader(kind: Any, dialect: Dialect) -> Convert | None:
    """How a column's value is read from what the driver gives; None for as it is."""
    if dialect.name == "sqlite" and _is_uuid(kind):
        return _uuid_of_hex
    plain = getattr(kind, "impl_instance", kind)
    number = NUMERIC if isinstance(plain, Numeric) else None
    if isinstance(plain, Float):
        number = FLOAT
    return kind.dialect_impl(dialect).result_processor(dialect, number)


def _writer(kind: Any, dialect: Dialect) -> Convert | None:
    """How what the driver gives is had as JSON without being read before; None if it is not."""
    if _is_uuid(kind):
        if dialect.name == "sqlite":
            return _dashed
        return _text if kind.native_uuid else None
    if isinstance(kind, UtcDateTime) and dialect.name == "sqlite":
        return _utc
    return None


def _uuid_of_hex(text: str | None) -> UUID | None:
    # A third of what UUID(text) takes, which looks for other spellings.
    return text if text is None else UUID(int=int(text, 16))


def _dashed(text: str | None) -> str | None:
    if text is None:
        return None
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _text(value: UUID | None) -> str | None:
    return value if value is None else str(value)


def _utc(text: str | None) -> str | None:
    """A stored time as RFC 3339 has it, without a fraction that is zero."""
    return text if text is None else f"{text[:10]}T{text[11:].removesuffix('.000000')}Z"
