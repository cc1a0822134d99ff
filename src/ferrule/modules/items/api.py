from ferrule import resource_router
from ferrule.modules.items.service import items

router = resource_router(items)
