"""Signed-in clients for tests."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from httpx import ASGITransport, AsyncClient

from ferrule.app import Ferrule
from ferrule.testing.sockets import TestSocket

PASSWORD = "correct horse battery staple"


class ActorClient(AsyncClient):
    """A client with the access token of a user; `user` is that user, as the API answers it."""

    user: dict[str, Any]
    app: Ferrule

    def socket(
        self, target: str = "/api/v1/ws", headers: Mapping[str, str] | None = None
    ) -> TestSocket:
        """A WebSocket of this user: `async with ann.socket() as socket: …`"""
        mine = {"authorization": self.headers["authorization"]}
        return TestSocket(self.app, target, mine if headers is None else headers)


class Actors:
    """Makes users and signs them in: `ann = await actors("ann")`.

    The same name gives the same client again. `admin=True` makes an administrator.
    """

    def __init__(self, app: Ferrule) -> None:
        self._app = app
        self._clients: dict[str, ActorClient] = {}

    async def __call__(self, name: str, *, admin: bool = False) -> ActorClient:
        if name not in self._clients:
            self._clients[name] = await self._sign_in(name, admin)
        return self._clients[name]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _sign_in(self, name: str, admin: bool) -> ActorClient:
        from ferrule.modules.auth.testing import sign_in

        user, token = await sign_in(self._app.kit, f"{name}@example.com", admin=admin)
        client = ActorClient(
            # The application answers what it raises; a test sees the answer, as a client would.
            transport=ASGITransport(self._app, raise_app_exceptions=False),
            base_url="http://testserver",
            headers={"Authorization": f"Bearer {token}"},
        )
        client.user, client.app = user, self._app
        return client
