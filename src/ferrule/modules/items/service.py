from ferrule import Resource
from ferrule.modules.items.models import Item
from ferrule.modules.items.schemas import ItemCreate, ItemResponse

items = Resource(
    Item,
    create=ItemCreate,
    response=ItemResponse,
    filters=("name", "status", "price__gte", "price__lte", "quantity__gte", "quantity__lte"),
    search=("name", "description"),
    sort=("created_at", "updated_at", "name", "status", "price", "quantity"),
    events=True,
)
