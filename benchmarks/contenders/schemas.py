"""What goes into the modules that are written by hand, and out: as strict as Ferrule's items."""

from pydantic import Field

from ferrule import JsonObject, OwnedStored, Price, Schema


class ItemCreate(Schema):
    name: str = Field(min_length=1, max_length=100)
    description: str | None = Field(default=None, max_length=10_000)
    status: str = Field(default="", max_length=50)
    price: Price | None = None
    quantity: int = Field(default=1, ge=0, le=2**31 - 1)
    metadata: JsonObject = Field(default_factory=dict)


class ItemResponse(OwnedStored, ItemCreate):
    metadata: JsonObject = Field(validation_alias="metadata_")


class ItemPage(Schema):
    items: list[ItemResponse]
    total: int
