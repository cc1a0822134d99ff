from ferrule.modules.items.models import Item
from ferrule.modules.items.schemas import ItemCreate, ItemResponse
from ferrule.resources import Resource

items = Resource(
    Item,
    create=ItemCreate,
    response=ItemResponse,
    filters=("name", "status", "price__gte", "price__lte", "quantity__gte", "quantity__lte"),
    search=("name", "description"),
    sort=("created_at", "updated_at", "name", "status", "price", "quantity"),
)
