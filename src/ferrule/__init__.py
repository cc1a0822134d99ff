"""Ferrule: a production backend for Python, in one piece.

from ferrule import Module, create_app

See `ferrule.db` for models and units of work, `ferrule.schemas` for request and response schemas,
`ferrule.resources` for generated resources, `ferrule.testing` for tests.
"""

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
