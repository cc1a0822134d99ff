"""The start of the module; the first one prints the link that makes an administrator."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from multiprocessing import current_process, parent_process
from typing import TYPE_CHECKING

from ferrule.db import Database
from ferrule.kit import Kit
from ferrule.modules.auth.principals import Principals
from ferrule.modules.auth.service import setup_token
from ferrule.modules.auth.settings import AuthSettings
from ferrule.modules.auth.users import administrator_exists

if TYPE_CHECKING:
    from ferrule.settings import Settings


@asynccontextmanager
async def lifespan(kit: Kit) -> AsyncGenerator[None]:
    """Offer the cache of principals; print the link where there is no administrator yet."""
    from ferrule.settings import Settings

    kit.provide(Principals())
    async with kit[Database].read() as session:
        welcome = _speaks_for_all() and not await administrator_exists(session)
    if welcome:
        base = base_url(kit[Settings])
        minutes = kit[AuthSettings].setup_ttl // 60
        # Printed, not logged: whoever has the link becomes the administrator.
        print(
            f"\n  Application    {base}/"
            f"\n  Documentation  {base}/docs"
            f"\n\n  There is no administrator yet. Make one within {minutes} minutes:"
            f"\n  {base}/setup#token={setup_token(kit)}\n",
            file=sys.stderr,
            flush=True,
        )
    yield


def _speaks_for_all() -> bool:
    """Whether this is the only process of the server, or the first of several."""
    return parent_process() is None or current_process().name.endswith("-1")


def base_url(settings: "Settings") -> str:
    """The address at which people find the application, without a slash at the end."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = settings.host
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{settings.port}"
    if address.is_unspecified:
        return f"http://localhost:{settings.port}"
    return f"http://{f'[{host}]' if address.version == 6 else host}:{settings.port}"
