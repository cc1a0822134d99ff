"""Whom a token stands for is remembered for a moment; what ends a login does not wait for it.

The clock of the memory stands still, so that nothing is forgotten because time went by.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from fastapi import APIRouter
from httpx import ASGITransport, AsyncClient
from sqlalchemy import delete, update

from ferrule import Module
from ferrule.actor import Actor, Anyone
from ferrule.app import Ferrule, create_app
from ferrule.db import Database, utcnow, uuid7
from ferrule.modules.auth import Login, User, module, principals
from ferrule.modules.auth.door import LOGIN_AND_USER
from ferrule.modules.auth.logins import end_logins
from ferrule.modules.auth.principals import MAX_AGE, Principals
from ferrule.security.tokens import Tokens
from ferrule.testing import ActorClient, Actors

from . import ANN, login, me, refresh, refused, register

USERS, ME = "/api/v1/users", "/api/v1/users/me"
who = APIRouter()


@who.get("/who")
async def read_who(actor: Anyone) -> str:
    return str(actor)


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return 1000 + self.passed

    def time(self) -> float:
        return 1_000_000 + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    # Tokens expire by another clock, which goes on.
    clock.time = time.time  # type: ignore[method-assign]
    monkeypatch.setattr(principals, "time", clock)
    return clock


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[module, Module(name="who", router=who)])


@pytest_asyncio.fixture
async def root(actors: Actors) -> ActorClient:
    return await actors("root", admin=True)


@pytest_asyncio.fixture
async def ann(actors: Actors, clock: Clock) -> ActorClient:
    """Signed in, and remembered at 0 of the clock."""
    ann = await actors("ann")
    assert (await ann.get(ME)).status_code == 200
    return ann


Looked = Callable[[UUID], Awaitable[None]]


@pytest.fixture
def looking(app: Ferrule, monkeypatch: pytest.MonkeyPatch) -> Callable[[Looked], None]:
    """Calls a function with the id of each user who was just looked up."""
    driver = app.kit[Database].engines.driver
    asking = driver.fetch

    def call(looked: Looked) -> None:
        async def fetch(statement: Any, values: Any) -> Any:
            rows = await asking(statement, values)
            if statement is LOGIN_AND_USER:
                await looked(values["user_id"])
            return rows

        monkeypatch.setattr(driver, "fetch", fetch)

    return call


@pytest.fixture
def lookups(looking: Callable[[Looked], None]) -> list[UUID]:
    """The users who were looked up."""
    seen: list[UUID] = []

    async def looked(user_id: UUID) -> None:
        seen.append(user_id)

    looking(looked)
    return seen


def token_of(client: AsyncClient) -> str:
    return client.headers["Authorization"].removeprefix("Bearer ")


def id_of(client: ActorClient) -> UUID:
    return UUID(client.user["id"])


def at(client: ActorClient) -> str:
    return f"{USERS}/{client.user['id']}"


async def test_a_principal_is_looked_up_once_in_a_while(
    ann: ActorClient, clock: Clock, lookups: list[UUID]
) -> None:
    clock.passed = 10
    for _ in range(5):
        assert (await ann.get(ME)).json() == ann.user
    assert lookups == [id_of(ann)]
    clock.passed += MAX_AGE + 0.01
    await ann.get(ME)
    assert len(lookups) == 2
    assert MAX_AGE < 1


# In the process that did it: at once.


async def _log_out(app: Ferrule, root: ActorClient, ann: ActorClient) -> None:
    assert (await ann.post("/api/v1/auth/logout")).status_code == 204


async def _change_password(app: Ferrule, root: ActorClient, ann: ActorClient) -> None:
    answer = await root.patch(at(ann), json={"password": "another long password"})
    assert answer.status_code == 200


async def _replace_with_password(app: Ferrule, root: ActorClient, ann: ActorClient) -> None:
    data = {"email": ann.user["email"], "password": "another long password"}
    assert (await root.put(at(ann), json=data)).status_code == 200


async def _disable(app: Ferrule, root: ActorClient, ann: ActorClient) -> None:
    assert (await root.patch(at(ann), json={"disabled": True})).status_code == 200


async def _delete(app: Ferrule, root: ActorClient, ann: ActorClient) -> None:
    assert (await root.delete(at(ann))).status_code == 204


async def _call_the_service(app: Ferrule, root: ActorClient, ann: ActorClient) -> None:
    async with app.kit[Database].write() as session:
        await end_logins(session, id_of(ann))


End = Callable[[Ferrule, ActorClient, ActorClient], Awaitable[None]]
ENDS = [
    _log_out, _change_password, _replace_with_password, _disable, _delete, _call_the_service,
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
async def test_what_ends_a_login_acts_on_the_very_next_request(
    app: Ferrule, root: ActorClient, ann: ActorClient, end: End
) -> None:
    assert (await root.get(ME)).status_code == 200
    await end(app, root, ann)
    refused(await ann.get(ME), 401, "invalid_token")
    # Nobody else is affected.
    assert app.kit[Principals].find(token_of(root)) is not None
    assert (await root.get(ME)).status_code == 200


async def test_a_role_that_is_taken_away_acts_on_the_very_next_request(
    root: ActorClient, ann: ActorClient
) -> None:
    for roles, status in (
        (["admin"], 200),
        ([], 403),
        (["admin", "editor"], 200),
        (["editor"], 403),
    ):
        assert (await root.patch(at(ann), json={"roles": roles})).status_code == 200
        assert (await ann.get(USERS)).status_code == status


async def test_a_copied_refresh_token_acts_on_the_very_next_request(
    app: Ferrule, clock: Clock, client: AsyncClient
) -> None:
    await register(client)
    first = (await login(client)).json()
    second = (await refresh(client, first["refresh_token"])).json()
    for pair in (first, second):
        assert (await me(client, pair["access_token"])).status_code == 200
    async with app.kit[Database].write() as session:
        await session.execute(update(Login).values(rotated_at=utcnow() - timedelta(minutes=1)))
    refused(await refresh(client, first["refresh_token"]), 401, "invalid_token")
    for pair in (first, second):
        refused(await me(client, pair["access_token"]), 401, "invalid_token")


async def test_two_logins_of_one_user_end_separately(
    app: Ferrule, clock: Clock, client: AsyncClient, root: ActorClient
) -> None:
    user = (await register(client)).json()
    one, two = [(await login(client)).json()["access_token"] for _ in range(2)]
    for token in (one, two):
        assert (await me(client, token)).status_code == 200
    await client.post("/api/v1/auth/logout", headers={"Authorization": f"Bearer {one}"})
    refused(await me(client, one), 401, "invalid_token")
    assert (await me(client, two)).status_code == 200
    await root.patch(f"{USERS}/{user['id']}", json={"disabled": True})
    refused(await me(client, two), 401, "invalid_token")


async def test_what_was_not_committed_ends_nothing(
    app: Ferrule, ann: ActorClient, lookups: list[UUID]
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.kit[Database].write() as session:
            await end_logins(session, id_of(ann))
            raise ZeroDivisionError
    assert (await ann.get(ME)).status_code == 200
    assert lookups == []


async def test_a_look_up_that_was_overtaken_is_not_remembered(
    app: Ferrule, root: ActorClient, ann: ActorClient, looking: Callable[[Looked], None]
) -> None:
    found, go_on = asyncio.Event(), asyncio.Event()

    async def looked(user_id: UUID) -> None:
        if user_id == id_of(ann) and not found.is_set():
            found.set()
            await go_on.wait()

    app.kit[Principals].forget(id_of(ann))
    looking(looked)
    overtaken = asyncio.create_task(ann.get(ME))
    await found.wait()
    await _disable(app, root, ann)
    go_on.set()
    # It was let in by what was so when it was asked.
    await overtaken
    assert app.kit[Principals].find(token_of(ann)) is None
    refused(await ann.get(ME), 401, "invalid_token")


# In other processes: within a second.


async def _revoke(app: Ferrule, ann: ActorClient) -> None:
    statement = update(Login).where(Login.user_id == id_of(ann)).values(revoked_at=utcnow())
    async with app.kit[Database].write() as session:
        await session.execute(statement)


async def _disable_past_us(app: Ferrule, ann: ActorClient) -> None:
    async with app.kit[Database].write() as session:
        await session.execute(update(User).where(User.id == id_of(ann)).values(disabled=True))


async def _delete_past_us(app: Ferrule, ann: ActorClient) -> None:
    async with app.kit[Database].write() as session:
        await session.execute(delete(User).where(User.id == id_of(ann)))


@pytest.mark.parametrize("end", [_revoke, _disable_past_us, _delete_past_us])
async def test_what_another_process_did_acts_within_a_second(
    app: Ferrule, ann: ActorClient, clock: Clock, end: Callable[[Ferrule, ActorClient], Any]
) -> None:
    clock.passed = 10
    await ann.get(ME)
    await end(app, ann)
    clock.passed += 0.99
    refused(await ann.get(ME), 401, "invalid_token")
    assert token_of(ann) not in app.kit[Principals]._known


@pytest.mark.parametrize("seconds", [0.8, 5])
async def test_the_second_counts_from_the_beginning_of_a_look_up(
    app: Ferrule,
    ann: ActorClient,
    clock: Clock,
    looking: Callable[[Looked], None],
    seconds: float,
) -> None:
    async def looked(_: UUID) -> None:
        clock.passed += seconds

    clock.passed = 10
    looking(looked)
    await ann.get(ME)
    # What the look-up saw was ended when it had just begun.
    await _revoke(app, ann)
    clock.passed = 11
    refused(await ann.get(ME), 401, "invalid_token")


async def test_a_logout_reaches_a_second_application_within_a_second(
    app: Ferrule, actors: Actors
) -> None:
    ann = await actors("ann")
    other = create_app(modules=[module, Module(name="who", router=who)])
    other.configure(app.settings)
    async with other.router.lifespan_context(other), _client(other, ann) as elsewhere:
        assert (await elsewhere.get(ME)).status_code == 200
        assert (await ann.post("/api/v1/auth/logout")).status_code == 204
        ended = time.monotonic()
        refused(await ann.get(ME), 401, "invalid_token")
        let_in = 0
        while True:
            asked = time.monotonic()
            if (await elsewhere.get(ME)).status_code != 200:
                break
            assert asked < ended + 1
            let_in += 1
            await asyncio.sleep(0.02)
        assert let_in, "it is not remembered at all, so this proves nothing"


def _client(app: Ferrule, like: AsyncClient) -> AsyncClient:
    transport = ASGITransport(app, raise_app_exceptions=False)
    return AsyncClient(transport=transport, base_url="http://testserver", headers=like.headers)


# Tokens.


async def test_a_token_that_expires_is_not_used_longer(
    app: Ferrule, ann: ActorClient, client: AsyncClient
) -> None:
    tokens = app.kit[Tokens]
    claims = tokens.verify(token_of(ann), "access")
    token = tokens.issue("access", subject=claims.subject, ttl=1.0, claims=claims.extra)
    expires_at = tokens.verify(token, "access").expires_at.timestamp()
    while (await me(client, token)).status_code == 200:
        assert time.time() < expires_at + 0.1
        await asyncio.sleep(0.01)
    assert time.time() >= expires_at


def test_a_memory_of_its_own_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(principals, "time", clock)
    known, actor = Principals(), Actor(kind="user", id=uuid7())
    known.remember("token", actor, clock.time() + 0.5, known.mark())
    assert known.find("token") is actor
    clock.passed += 0.5
    assert known.find("token") is None
    # Nor is it remembered what was looked up too long ago.
    mark = known.mark()
    clock.passed += MAX_AGE + 0.01
    known.remember("token", actor, clock.time() + 60, mark)
    assert known.find("token") is None


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals, "MAX_TOKENS", 3)
    known = Principals()
    for number in range(10):
        known.remember(str(number), Actor(kind="user", id=uuid7()), time.time() + 60, known.mark())
    found = [number for number in range(10) if known.find(str(number)) is not None]
    assert found == [7, 8, 9]


async def test_tokens_that_are_refused_are_not_remembered(
    app: Ferrule, client: AsyncClient, ann: ActorClient, root: ActorClient
) -> None:
    await _disable(app, root, ann)
    known = len(app.kit[Principals]._known)
    for token in (token_of(ann), "x", token_of(ann)[:-2] + "AA"):
        for _ in range(2):
            refused(await me(client, token), 401, "invalid_token")
    assert len(app.kit[Principals]._known) == known


async def test_a_remembered_token_counts_only_as_it_was_shown(
    client: AsyncClient, ann: ActorClient
) -> None:
    token = token_of(ann)
    for credentials in (f"Basic {token}", token, f"Bearer {token}x", f"Bearer {token[:-1]}"):
        answer = await client.get(ME, headers={"Authorization": credentials})
        assert answer.status_code == 401, credentials
    twice = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    refused(await client.get(ME, headers=twice), 401, "invalid_token")


async def test_where_anybody_may_pass_a_dead_token_makes_nobody(
    app: Ferrule, client: AsyncClient, root: ActorClient, ann: ActorClient
) -> None:
    path = "/api/v1/who"
    assert (await ann.get(path)).json() == f"user:{id_of(ann)}"
    await _disable(app, root, ann)
    assert (await ann.get(path)).json() == "anonymous"
    dead = {"Authorization": f"Bearer {token_of(ann)}"}
    assert (
        await client.post("/api/v1/auth/register", json={**ANN, "email": "b@b.org"}, headers=dead)
    ).status_code == 201
    assert (await client.get(path)).json() == "anonymous"
