"""The application on every database at once, so that their answers can be compared."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx import AsyncClient, Response

from ferrule import Ferrule, create_app
from ferrule.testing import Actors, TestDatabases

CANARY = "canary7f3a"
"""Stands in every hostile text: it must not come back in a refusal."""


@dataclass(frozen=True)
class World:
    """One application, with an administrator, an ordinary user, and what each may name."""

    kind: str
    app: Ferrule
    clients: Mapping[str, AsyncClient]
    ids: Mapping[str, str]


class Worlds:
    """Sends one request to all worlds; the answers must be alike."""

    def __init__(self, worlds: list[World]) -> None:
        self.all = worlds

    async def send(self, who: str, method: str, path: str, **request: Any) -> Response:
        """The answer, which is a refusal or a success, and the same in every world."""
        answers = await asyncio.gather(
            *(
                world.clients[who].request(
                    method, path.format(**world.ids), **_naming(world.ids, request)
                )
                for world in self.all
            )
        )
        told = [_told(answer) for answer in answers]
        where = f"{method} {path} as {who} {str(request)[:300]}"
        assert all(other == told[0] for other in told), f"{where}: {told}"
        for answer in answers:
            assert answer.status_code < 500, f"{where}: {answer.text}"
            if answer.status_code >= 400:
                assert answer.headers["Content-Type"] == "application/problem+json", where
                assert CANARY not in answer.text, where
                assert CANARY not in str(answer.headers), where
        return answers[0]

    async def refused(self, who: str, method: str, path: str, **request: Any) -> Response:
        answer = await self.send(who, method, path, **request)
        assert 400 <= answer.status_code < 500, f"{method} {path} {str(request)[:300]}"
        return answer


def _naming(ids: Mapping[str, str], request: Mapping[str, Any]) -> dict[str, Any]:
    """The request, whose body of text may say `"{bob}"` for his id."""
    content = request.get("content")
    if not isinstance(content, str):
        return {**request}
    return {**request, "content": content.replace('"{bob}"', f'"{ids["bob"]}"')}


def _told(answer: Response) -> Any:
    """What an answer tells of the request: its status, and why it was refused."""
    if answer.status_code < 400:
        return answer.status_code
    problem = answer.json()
    errors = [(error["loc"], error["code"]) for error in problem.get("errors", ())]
    return problem["status"], problem["code"], errors


@asynccontextmanager
async def worlds(databases: TestDatabases, folder: Path, **http: Any) -> AsyncIterator[Worlds]:
    """The application on SQLite, and on PostgreSQL where it answers."""
    alone = await asyncio.to_thread(databases.why_no_postgres)
    kinds = ["sqlite"] if alone else ["sqlite", "postgresql"]
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(_world(databases, kind, folder, http)) for kind in kinds
        ]
        yield Worlds(opened)


@asynccontextmanager
async def _world(
    databases: TestDatabases, kind: str, folder: Path, http: Mapping[str, Any]
) -> AsyncIterator[World]:
    app = create_app()
    settings = await databases.empty(app, kind, folder)
    update = {"http": settings.http.model_copy(update=http)}
    app.configure(settings.model_copy(update=update))
    async with app.router.lifespan_context(app), Actors(app) as actors:
        root, ann, bob = await actors("root", admin=True), await actors("ann"), await actors("bob")
        ids = {"bob": bob.user["id"]}
        for name, client in (("root", root), ("ann", ann), ("bob", bob)):
            made = await client.post("/api/v1/items", json={"name": "Milk"})
            ids[f"{name}s_item"] = made.json()["id"]
            room = await client.post("/api/v1/rooms", json={"name": "Kitchen"})
            ids[f"{name}s_room"] = room.json()["id"]
            messages = f"{room.headers['Location']}/messages"
            said = await client.post(messages, json={"text": "Hello"})
            ids[f"{name}s_message"] = said.json()["id"]
        yield World(kind, app, {"root": root, "ann": ann}, ids)
