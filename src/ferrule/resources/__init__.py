"""Typed list, get, create, replace, update, delete and restore of a model, in a few lines."""

from ferrule.resources.router import resource_router
from ferrule.resources.service import Action, Resource

__all__ = ["Action", "Resource", "resource_router"]
