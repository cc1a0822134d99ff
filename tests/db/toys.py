"""Two modules in a folder, `users` and `shop`, whose models a test can change as a developer would.

Each loading has models of its own on a metadata of its own, so that nothing reaches `Base`.
"""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

from ferrule.module import Module, resolve

BASE = """
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase
from ferrule.db import Base as Kit

class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=Kit.metadata.naming_convention)
    type_annotation_map = Kit.type_annotation_map
"""

USERS = """
from typing import Any
from uuid import UUID
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column
from BASE import Base

class User(Base):
    __tablename__ = "users"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(320), unique=True)
    settings: Mapped[dict[str, Any]]
"""

SHOP = """
from datetime import datetime
from decimal import Decimal
from uuid import UUID
from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column
from BASE import Base

LIVE = text("sold_at IS NULL")

class Thing(Base):
    __tablename__ = "things"
    __table_args__ = (
        CheckConstraint("quantity >= 0", name="quantity"),
        Index("ix_things_live", "name", sqlite_where=LIVE, postgresql_where=LIVE, unique=True),
        Index(None, "owner_id", "id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    price: Mapped[Decimal | None]
    quantity: Mapped[int] = mapped_column(Integer)
    seen: Mapped[int]
    weight: Mapped[float | None]
    new: Mapped[bool]
    sold_at: Mapped[datetime | None]
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))

class Part(Base):
    __tablename__ = "parts"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    thing_id: Mapped[UUID] = mapped_column(ForeignKey("things.id", ondelete="CASCADE"), index=True)
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("parts.id"))
"""

SHOP_CHANGED = SHOP.replace("String(100)", "String(200)").replace(
    "    seen: Mapped[int]\n",
    "    seen: Mapped[int | None]\n"
    '    colour: Mapped[str] = mapped_column(Text, server_default="red")\n',
)

_numbers = itertools.count()


def modules(folder: Path, *, shop: str = SHOP) -> tuple[Module, ...]:
    """The modules as their files in `folder` stand; `shop` is the source of its models."""
    base = _load(folder / "base.py", BASE)
    users = _load(folder / "users" / "models.py", USERS.replace("BASE", base.__name__))
    things = _load(folder / "shop" / "models.py", shop.replace("BASE", base.__name__))
    models = [things.Thing, things.Part] if hasattr(things, "Part") else [things.Thing]
    return resolve(
        [
            Module(name="shop", requires=("users",), models=models),
            Module(name="users", models=[users.User]),
        ]
    )


def migration(folder: Path, module: str, number: int, upgrade: str) -> Path:
    """Write a migration by hand, whose upgrade runs these lines."""
    text = "\n".join(
        [
            '"""By hand"""',
            "import sqlalchemy as sa",
            "from alembic import op",
            f'revision = "{module}_{number:04d}"',
            f'down_revision = "{module}_{number - 1:04d}"',
            "def upgrade() -> None:",
            *(f"    {line}" for line in upgrade.splitlines()),
            "def downgrade() -> None:",
            "    pass",
        ]
    )
    path = folder / module / "migrations" / f"{number:04d}_by_hand.py"
    path.write_text(text, encoding="utf-8")
    return path


def _load(path: Path, source: str) -> ModuleType:
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding="utf-8")
    name = f"toy_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    # Without the cache: two versions of a file may be written within its clock's tick.
    exec(compile(source, path, "exec"), loaded.__dict__)
    return loaded
