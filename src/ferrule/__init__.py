"""Ferrule: a production backend for Python, in one piece.

from ferrule import Module, create_app

See `ferrule.db` for models and units of work, `ferrule.schemas` for request and response schemas,
`ferrule.resources` for generated resources, `ferrule.testing` for tests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferrule.actor import (
        Access,
        Actor,
        Administrator,
        Anyone,
        Door,
        SignedIn,
        administrator,
        public,
        role,
        signed_in,
    )
    from ferrule.app import Ferrule, create_app
    from ferrule.errors import (
        ConfigurationError,
        Conflict,
        Error,
        Forbidden,
        Invalid,
        NotFound,
        PreconditionFailed,
        TooManyRequests,
        Unauthenticated,
        Unavailable,
    )
    from ferrule.http.etag import IfMatchHeader, etag
    from ferrule.kit import Kit
    from ferrule.module import Module, SettingsGroup
    from ferrule.resources import Resource, resource_router
    from ferrule.schemas import (
        JsonObject,
        OwnedStored,
        Price,
        Schema,
        Stored,
        TextSchema,
        changes,
        patch_of,
    )
    from ferrule.settings import Settings

__all__ = [
    "Access",
    "Actor",
    "Administrator",
    "Anyone",
    "ConfigurationError",
    "Conflict",
    "Door",
    "Error",
    "Ferrule",
    "Forbidden",
    "IfMatchHeader",
    "Invalid",
    "JsonObject",
    "Kit",
    "Module",
    "NotFound",
    "OwnedStored",
    "PreconditionFailed",
    "Price",
    "Resource",
    "Schema",
    "Settings",
    "SettingsGroup",
    "SignedIn",
    "Stored",
    "TextSchema",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "administrator",
    "changes",
    "create_app",
    "etag",
    "patch_of",
    "public",
    "resource_router",
    "role",
    "signed_in",
]

_HOMES = (
    "errors", "kit", "actor", "module", "schemas", "settings", "http.etag", "resources", "app",
)  # fmt: skip
"""Where the names stand, those first that need the least."""


def __getattr__(name: str) -> Any:
    # Imported when asked for: a command that needs none of it need not wait for all of it, and
    # `ferrule.asgi` stops the collector before.
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"ferrule.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'ferrule' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
