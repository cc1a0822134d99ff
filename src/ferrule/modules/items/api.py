from ferrule.modules.items.service import items
from ferrule.resources import resource_router

router = resource_router(items)
