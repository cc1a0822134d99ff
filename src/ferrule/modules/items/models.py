from decimal import Decimal
from typing import Any

from sqlalchemy import Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ferrule.db import Base, Owned, SoftDeleted


class Item(Base, Owned, SoftDeleted):
    __tablename__ = "items"

    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(50))
    price: Mapped[Decimal | None]
    quantity: Mapped[int] = mapped_column(Integer)
    # SQLAlchemy holds the name `metadata`; the column and the API have it.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
