"""The modules that ship with Ferrule. They have no privilege that a user's module lacks."""

from ferrule.modules import auth, items, notifications, rooms

SHIPPED = (auth.module, items.module, notifications.module, rooms.module)

__all__ = ["SHIPPED"]
