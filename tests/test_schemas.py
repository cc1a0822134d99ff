"""Schemas refuse what cannot be stored, and answer what was."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import Field, ValidationError

from ferrule import JsonObject, Price, Schema, Stored, patch_of
from ferrule.db import uuid7
from ferrule.schemas import MAX_JSON, changes


class Inner(Schema):
    text: str = ""


class Thing(Schema):
    name: str = Field(default="", max_length=5)
    count: int = 0
    ratio: float = 0
    price: Price | None = None
    amount: Decimal = Decimal(0)
    at: datetime | None = None
    data: JsonObject = Field(default_factory=dict)
    names: list[str] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)
    inner: Inner | None = None
    metadata: dict[str, int] = Field(default_factory=dict)


class ThingResponse(Thing, Stored):
    pass


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a\x00"),
        ("name", "\ud800"),
        ("count", 2**53 + 1),
        ("count", "1"),
        ("count", True),
        ("ratio", float("nan")),
        ("ratio", float("inf")),
        ("price", "NaN"),
        ("price", "-1"),
        ("price", "1.001"),
        ("amount", "1e400"),
        ("at", "2026-01-01T00:00:00"),
        ("at", "0001-01-01T00:00:00+14:00"),
        ("data", {"a": ["\x00"]}),
        ("data", {"a": "x" * MAX_JSON}),
        ("names", ["\x00"]),
        ("counts", {"\x00": 1}),
        ("counts", {"a": -(2**53) - 1}),
        ("metadata", {"\x00": 1}),
        ("inner", {"text": "\x00"}),
        ("inner", {"unknown": 1}),
        ("unknown", 1),
    ],
)
def test_what_cannot_be_stored_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Thing.model_validate({field: value})


def test_a_row_that_was_stored_under_wider_bounds_is_still_answered() -> None:
    now = datetime.now(UTC)
    stored = {"id": uuid7(), "revision": 1, "created_at": now, "updated_at": now}
    answer = ThingResponse.model_validate(
        {**stored, "name": "longer than five", "price": Decimal("-1.001"), "count": 2**60}
    )
    assert answer.name == "longer than five"
    assert "maxLength" not in ThingResponse.model_json_schema()["properties"]["name"]


def test_a_patch_knows_what_it_names() -> None:
    patch = patch_of(Thing)
    assert changes(patch.model_validate({"name": "x"})) == {"name": "x"}
    assert changes(patch.model_validate({})) == {}
    with pytest.raises(ValidationError):
        patch.model_validate({"name": None})
    assert "default" not in patch.model_json_schema()["properties"]["count"]
