"""Accounts: one's own, and those that administrators see."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import func, select

from ferrule.app import Ferrule
from ferrule.db import Database
from ferrule.modules.auth import Login, User
from ferrule.testing import ActorClient, Actors

from . import PASSWORD, field_error, login, refused

USERS, ME = "/api/v1/users", "/api/v1/users/me"


@pytest.fixture
async def root(actors: Actors) -> ActorClient:
    return await actors("root", admin=True)


@pytest.fixture
async def ann(actors: Actors) -> ActorClient:
    return await actors("ann")


def at(client: ActorClient) -> str:
    return f"{USERS}/{client.user['id']}"


async def test_people_see_and_change_themselves(ann: ActorClient) -> None:
    seen = await ann.get(ME)
    assert seen.json() == ann.user
    assert seen.headers["ETag"] == '"1"'
    changed = await ann.patch(ME, json={"name": "Ann A."}, headers={"If-Match": '"1"'})
    assert changed.json()["name"] == "Ann A."
    assert changed.headers["ETag"] == '"2"'
    assert (await ann.get(ME)).json() == changed.json()
    late = await ann.patch(ME, json={"name": "Late"}, headers={"If-Match": '"1"'})
    refused(late, 412, "precondition_failed")


@pytest.mark.parametrize(
    "field", ["roles", "email", "verified", "disabled", "password", "password_hash", "id"]
)
async def test_z3_people_do_not_give_themselves_more(ann: ActorClient, field: str) -> None:
    assert field_error(await ann.patch(ME, json={field: ["admin"]}))[0] == field


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", USERS),
        ("POST", USERS),
        ("GET", f"{USERS}/{{id}}"),
        ("PUT", f"{USERS}/{{id}}"),
        ("PATCH", f"{USERS}/{{id}}"),
        ("DELETE", f"{USERS}/{{id}}"),
    ],
)
async def test_z2_administration_is_for_administrators(
    client: AsyncClient, ann: ActorClient, method: str, path: str
) -> None:
    path = path.format(id=ann.user["id"])
    refused(await ann.request(method, path, json={}), 403, "forbidden")
    refused(await client.request(method, path, json={}), 401, "unauthenticated")


async def test_administrators_make_accounts(client: AsyncClient, root: ActorClient) -> None:
    data = {"email": "Bob@Example.com", "password": PASSWORD, "roles": ["editor", "admin", "admin"]}
    made = await root.post(USERS, json=data)
    assert made.status_code == 201
    bob = made.json()
    assert made.headers["Location"] == f"{USERS}/{bob['id']}"
    assert made.headers["ETag"] == '"1"'
    assert bob["roles"] == ["admin", "editor"]
    assert (bob["email"], bob["verified"]) == ("bob@example.com", True)
    assert (await root.get(f"{USERS}/{bob['id']}")).json() == bob
    assert (await login(client, "bob@example.com")).status_code == 200
    refused(await root.post(USERS, json=data), 409, "email_taken")
    short = {"email": "eve@example.com", "password": "short"}
    assert field_error(await root.post(USERS, json=short)) == ("password", "password_too_short")
    refused(await root.patch(f"{USERS}/{bob['id']}", json={"email": "root@example.com"}),
            409, "email_taken")  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"roles": ['x"y']},
        {"roles": ["Admin"]},
        {"roles": ["a" * 51]},
        {"roles": [f"r{number}" for number in range(21)]},
        {"roles": None},
        {"email": None},
        {"disabled": None},
        {"password": None},
        {"password_hash": "x"},
        {"revision": 1},
        {"created_at": "2026-01-01T00:00:00Z"},
    ],
)
async def test_z3_administrators_set_what_is_declared(
    root: ActorClient, ann: ActorClient, change: dict[str, Any]
) -> None:
    assert field_error(await root.patch(at(ann), json=change))[0] is not None


async def test_put_replaces_all_but_the_password(
    client: AsyncClient, root: ActorClient, ann: ActorClient
) -> None:
    await root.patch(at(ann), json={"roles": ["editor"]})
    put = await root.put(at(ann), json={"email": "ann@new.example.com"})
    assert put.status_code == 200, put.text
    assert (put.json()["name"], put.json()["roles"]) == ("", [])
    assert put.headers["ETag"] == f'"{put.json()["revision"]}"'
    assert (await login(client, "ann@new.example.com")).status_code == 200
    refused(await login(client, "ann@example.com"), 401, "invalid_credentials")
    put = await root.put(
        at(ann), json={"email": "ann@new.example.com", "password": "another long password"}
    )
    assert put.status_code == 200
    refused(await login(client, "ann@new.example.com"), 401, "invalid_credentials")
    assert (await login(client, "ann@new.example.com", "another long password")).status_code == 200


async def test_the_list_is_searched_filtered_and_sorted(
    root: ActorClient, ann: ActorClient
) -> None:
    await root.patch(at(ann), json={"disabled": True})

    async def emails(**query: Any) -> list[str]:
        answer = await root.get(USERS, params=query)
        assert answer.status_code == 200, answer.text
        return [user["email"] for user in answer.json()["items"]]

    assert await emails(sort="email") == ["ann@example.com", "root@example.com"]
    assert await emails(sort="-email") == ["root@example.com", "ann@example.com"]
    assert await emails(search="ROOT") == ["root@example.com"]
    assert await emails(search="%") == []
    assert await emails(disabled=True) == ["ann@example.com"]
    assert await emails(email="ann@example.com") == ["ann@example.com"]
    for name in ("password_hash", "sort=password_hash"):
        field, _, value = name.partition("=")
        assert (await root.get(USERS, params={field: value or "x"})).status_code == 422


async def test_z5_roles_act_at_once(root: ActorClient, ann: ActorClient) -> None:
    assert (await ann.get(USERS)).status_code == 403
    await root.patch(at(ann), json={"roles": ["admin"]})
    assert (await ann.get(USERS)).status_code == 200
    await root.patch(at(ann), json={"roles": []})
    assert (await ann.get(USERS)).status_code == 403


async def test_s6_disabling_acts_at_once(root: ActorClient, ann: ActorClient) -> None:
    assert (await ann.get(ME)).status_code == 200
    await root.patch(at(ann), json={"disabled": True})
    refused(await ann.get(ME), 401, "invalid_token")
    await root.patch(at(ann), json={"disabled": False})
    refused(await ann.get(ME), 401, "invalid_token")


async def test_s6_a_new_password_ends_all_logins(
    client: AsyncClient, root: ActorClient, ann: ActorClient
) -> None:
    changed = await root.patch(at(ann), json={"password": "another long password"})
    assert changed.status_code == 200
    refused(await ann.get(ME), 401, "invalid_token")
    assert (await login(client, "ann@example.com", "another long password")).status_code == 200


async def test_taking_verification_away_acts_at_once(
    root: ActorClient, ann: ActorClient, auth: Callable[..., None]
) -> None:
    auth(registration="closed")
    assert (await ann.get(ME)).status_code == 200
    await root.patch(at(ann), json={"verified": False})
    refused(await ann.get(ME), 401, "invalid_token")


async def test_deleting_acts_at_once_and_takes_the_logins_along(
    app: Ferrule, root: ActorClient, ann: ActorClient
) -> None:
    gone = await root.delete(at(ann))
    assert (gone.status_code, gone.content) == (204, b"")
    refused(await ann.get(ME), 401, "invalid_token")
    refused(await root.get(at(ann)), 404, "not_found")
    async with app.kit[Database].read() as session:
        assert await session.scalar(select(func.count()).select_from(Login)) == 1


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("PATCH", {"roles": []}),
        ("PATCH", {"disabled": True}),
        ("PUT", {"email": "root@example.com"}),
        ("DELETE", None),
    ],
)
async def test_the_last_administrator_stays(
    root: ActorClient, ann: ActorClient, method: str, change: dict[str, Any] | None
) -> None:
    # One that is disabled counts for nothing.
    await root.patch(at(ann), json={"roles": ["admin"], "disabled": True})
    refused(await root.request(method, at(root), json=change), 409, "last_administrator")
    assert (await root.get(ME)).json() == root.user
    await root.patch(at(ann), json={"disabled": False})
    assert (await root.request(method, at(root), json=change)).status_code in (200, 204)


async def test_an_unverified_administrator_counts_only_where_registration_is_open(
    root: ActorClient, ann: ActorClient, auth: Callable[..., None]
) -> None:
    await root.patch(at(ann), json={"roles": ["admin"], "verified": False})
    auth(registration="verified")
    refused(await root.patch(at(root), json={"roles": []}), 409, "last_administrator")
    refused(await root.patch(at(root), json={"verified": False}), 409, "last_administrator")
    auth(registration="open")
    assert (await root.patch(at(root), json={"roles": []})).status_code == 200


async def test_administrators_who_end_each_other_at_once_leave_one(
    app: Ferrule, actors: Actors
) -> None:
    roots = [await actors(f"root{number}", admin=True) for number in range(6)]
    answers = await asyncio.gather(
        *(root.delete(at(other)) for root, other in zip(roots, roots[1:] + roots[:1], strict=True))
    )
    assert {answer.status_code for answer in answers} <= {204, 401, 403, 409}
    async with app.kit[Database].read() as session:
        left = await session.scalar(select(func.count()).select_from(User))
    assert left >= 1


async def test_the_last_two_administrators_demote_each_other(app: Ferrule, actors: Actors) -> None:
    one, two = await actors("one", admin=True), await actors("two", admin=True)
    for _ in range(5):
        answers = await asyncio.gather(
            one.patch(at(two), json={"roles": []}), two.patch(at(one), json={"roles": []})
        )
        codes = sorted(answer.status_code for answer in answers)
        assert codes in ([200, 403], [200, 409])
        still = one if answers[0].status_code == 200 else two
        other = two if still is one else one
        assert (await still.patch(at(other), json={"roles": ["admin"]})).status_code == 200
