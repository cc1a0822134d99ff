"""Items: what a user owns. The example of a module made of a resource."""

from ferrule import Module
from ferrule.modules.items.api import router
from ferrule.modules.items.models import Item

module = Module(name="items", requires=("auth",), router=router, models=(Item,))

__all__ = ["Item", "module"]
