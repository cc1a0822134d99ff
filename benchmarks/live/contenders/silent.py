"""Ferrule with everything that ships, but that its items do not tell of what becomes of them."""

from copy import copy
from dataclasses import replace

from ferrule import create_app, resource_router
from ferrule.modules import SHIPPED
from ferrule.modules.items import module
from ferrule.modules.items.service import items

quiet = copy(items)
quiet.channel = None
silent = replace(module, router=resource_router(quiet))
app = create_app(modules=[silent if each is module else each for each in SHIPPED])
