"""Ferrule with everything that ships, but that its items do not tell of what becomes of them."""

from dataclasses import replace

from ferrule import Resource, create_app, resource_router
from ferrule.modules import SHIPPED
from ferrule.modules.items import Item
from ferrule.modules.items import module as items
from ferrule.modules.items.schemas import ItemCreate, ItemResponse

router = resource_router(
    Resource(
        Item,
        create=ItemCreate,
        response=ItemResponse,
        filters=("name", "status", "price__gte", "price__lte", "quantity__gte", "quantity__lte"),
        search=("name", "description"),
        sort=("created_at", "updated_at", "name", "status", "price", "quantity"),
    )
)
silent = replace(items, router=router)
app = create_app(modules=[silent if each is items else each for each in SHIPPED])
