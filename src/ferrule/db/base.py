"""The base of all models, and the mixins for an owner and for deleting softly."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, event
from sqlalchemy import Uuid as UuidType
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Mapper,
    configure_mappers,
    declared_attr,
    mapped_column,
)

from ferrule.db.types import Json, Money, UtcDateTime, utcnow, uuid7
from ferrule.errors import ConfigurationError


def _same_as_created(context: Any) -> datetime:
    return context.get_current_parameters()["created_at"]


class Owned:
    """The row belongs to a user: `owner_id` stands in the WHERE clause of everything that is asked.

    The rows of a user are deleted with the user. An index on owner and id comes with it.
    """

    @declared_attr
    @classmethod
    def owner_id(cls) -> Mapped[UUID]:
        return mapped_column(ForeignKey("users.id", ondelete="CASCADE"), sort_order=80)


class Base(DeclarativeBase):
    """Every model has an id (UUIDv7), its times in UTC and `revision`, which each update raises.

    An update of a row that somebody else changed since it was read fails instead of overwriting.
    """

    __abstract__ = True
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger(),
        datetime: UtcDateTime(),
        Decimal: Money(),
        UUID: UuidType(),
        dict[str, Any]: Json(),
        list[str]: Json(),
        list[Any]: Json(),
    }

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-10)
    revision: Mapped[int] = mapped_column(sort_order=90)
    created_at: Mapped[datetime] = mapped_column(default=utcnow, sort_order=91)
    updated_at: Mapped[datetime] = mapped_column(
        default=_same_as_created, onupdate=utcnow, sort_order=92
    )

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        return {"version_id_col": cls.revision}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, Owned):
            # A list asks for the rows of one owner in the order of their ids.
            columns = cls.__table__.columns
            Index(f"ix_{cls.__tablename__}_owner_id_id", columns["owner_id"], columns["id"])


class SoftDeleted:
    """Deleting sets `deleted_at`; the row is hidden from then on, and can be restored."""

    deleted_at: Mapped[datetime | None] = mapped_column(default=None, sort_order=93)


@event.listens_for(Base, "attribute_instrument", propagate=True)
def _normalize(cls: type[Base], key: str, attribute: Any) -> None:  # pyright: ignore[reportUnusedFunction]
    """Let a model hold what its column will give back: 1.2 is 1.20, and times are in UTC.

    Else the answer to a POST would differ from that to the GET after it.
    """
    columns = getattr(attribute.property, "columns", None)
    kind = columns[0].type if columns else None
    if isinstance(kind, Money | UtcDateTime):

        def normal(target: Any, value: Any, *_: Any) -> Any:
            return kind.normal(value)

        event.listen(attribute, "set", normal, retval=True)


def check_models(models: Sequence[type[Any]], *, module: str) -> None:
    """Refuse relationships that load lazily: each would be a query in a loop, unseen (N+1)."""
    configure_mappers()
    for model in models:
        mapper: Mapper[Any] = model.__mapper__
        for relation in mapper.relationships:
            if relation.lazy in ("select", True):
                raise ConfigurationError(
                    f"Module {module!r}: {model.__name__}.{relation.key} would load lazily, one "
                    f'query for each row. Declare it with relationship(lazy="raise") and ask for '
                    f"it where it is needed: select(…).options(selectinload(…))."
                )
