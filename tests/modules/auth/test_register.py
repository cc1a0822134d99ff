"""Making an account: open, verified and closed registration."""

import asyncio
from collections.abc import Callable

import pytest
from httpx import AsyncClient
from sqlalchemy import func, select

from ferrule.app import Ferrule
from ferrule.db import Database
from ferrule.modules.auth import User
from ferrule.security.passwords import PasswordHasher
from ferrule.testing import Actors

from . import ANN, PASSWORD, field_error, login, refused, register

Change = Callable[..., None]


async def test_an_account_is_made_and_signs_in(client: AsyncClient) -> None:
    made = await register(client)
    assert made.status_code == 201
    assert made.headers["Location"] == "/api/v1/users/me"
    assert made.headers["ETag"] == '"1"'
    user = made.json()
    assert user["email"] == "ann@example.com"
    assert (user["name"], user["roles"]) == ("Ann", [])
    assert (user["disabled"], user["verified"]) == (False, False)
    assert (await login(client)).status_code == 200


async def test_z4_no_secret_column_leaves(client: AsyncClient) -> None:
    made = await register(client)
    assert set(made.json()) == {
        "id", "email", "name", "roles", "disabled", "verified",
        "revision", "created_at", "updated_at",
    }  # fmt: skip


@pytest.mark.parametrize(
    "twin", ["ann@example.com", "Ann@Example.COM", "ANN@EXAMPLE.COM", " ann@example.com"]
)
async def test_i4_an_address_has_one_account(client: AsyncClient, twin: str) -> None:
    await register(client)
    again = await register(client, email=twin)
    if twin.startswith(" "):
        assert field_error(again) == ("email", "email_invalid")
    else:
        refused(again, 409, "email_taken")


async def test_i4_normal_forms_of_an_address_are_one(client: AsyncClient) -> None:
    made = await register(client, email="Zo\u00eb@example.com")
    assert made.json()["email"] == "zo\u00eb@example.com"
    refused(await register(client, email="zoe\u0308@EXAMPLE.com"), 409, "email_taken")
    assert (await login(client, "ZOE\u0308@example.com")).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": "ann"}, "email"),
        ({"email": "Ann <ann@example.com>"}, "email"),
        ({"email": "ann@exa\u202emple.com"}, "email"),
        ({"email": "a" * 320 + "@example.com"}, "email"),
        ({"email": ["ann@example.com"]}, "email"),
        ({"name": "x" * 101}, "name"),
        ({"name": "Ann\u202e"}, "name"),
        ({"name": "A\u200bnn"}, "name"),
        ({"password": "x" * 14}, "password"),
        ({"password": ""}, "password"),
        ({"password": "x" * 1025}, "password"),
        ({"roles": ["admin"]}, "roles"),
        ({"verified": True}, "verified"),
        ({"id": "018f0000-0000-7000-8000-000000000000"}, "id"),
    ],
)
async def test_z3_what_is_not_allowed_is_refused(
    client: AsyncClient, change: dict[str, object], field: str
) -> None:
    assert field_error(await register(client, **change))[0] == field


@pytest.mark.parametrize("field", ["email", "name", "password"])
async def test_i4_nul_is_refused_everywhere(client: AsyncClient, field: str) -> None:
    assert (await register(client, **{field: ANN[field] + "\x00"})).status_code == 422
    form = {"username": ANN["email"], "password": PASSWORD + "\x00"}
    assert (await client.post("/api/v1/auth/login", data=form)).status_code == 422


async def test_n1_the_least_length_is_a_setting(client: AsyncClient, auth: Change) -> None:
    assert field_error(await register(client, password="x" * 14)) == (
        "password",
        "password_too_short",
    )
    auth(password_min=8)
    assert (await register(client, password="x y z 12")).status_code == 201


async def test_n1_a_long_password_counts_whole(client: AsyncClient) -> None:
    long = "long " * 200
    assert (await register(client, password=long + "a")).status_code == 201
    refused(await login(client, password=long + "b"), 401, "invalid_credentials")
    assert (await login(client, password=long + "a")).status_code == 200


async def test_n1_a_mebibyte_is_refused_without_hashing(
    app: Ferrule, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> str:
        raise AssertionError("hashed")

    for name in ("hash", "verify", "verify_nothing"):
        monkeypatch.setattr(app.kit[PasswordHasher], name, never)
    big = "x" * 1_000_000
    assert (await register(client, password=big)).status_code == 422
    assert (await login(client, password=big)).status_code == 422


async def test_many_registrations_of_one_address_make_one_account(
    app: Ferrule, client: AsyncClient
) -> None:
    answers = await asyncio.gather(*(register(client) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    assert await _count(app) == 1


async def test_n3_verified_registration_tells_nothing(
    app: Ferrule, client: AsyncClient, auth: Change
) -> None:
    auth(registration="verified")
    new, taken = await register(client), await register(client, name="Mallory", password="x" * 20)
    assert new.status_code == taken.status_code == 202
    assert new.content == taken.content
    unlike = {"x-request-id", "date"}
    assert _headers(new, unlike) == _headers(taken, unlike)
    async with app.kit[Database].read() as session:
        stored = await session.scalar(select(User))
    assert (stored.name, stored.revision) == ("Ann", 1)


async def test_n3_verified_registration_does_the_same_work(
    app: Ferrule, client: AsyncClient, auth: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth(registration="verified")
    hashed: list[str] = []
    inner = app.kit[PasswordHasher].hash

    async def hash(password: str) -> str:
        hashed.append(password)
        return await inner(password)

    monkeypatch.setattr(app.kit[PasswordHasher], "hash", hash)
    await register(client)
    await register(client)
    assert hashed == [PASSWORD, PASSWORD]


async def test_many_verified_registrations_of_one_address_are_alike(
    app: Ferrule, client: AsyncClient, auth: Change
) -> None:
    auth(registration="verified")
    answers = await asyncio.gather(*(register(client) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert await _count(app) == 1


async def test_a_verified_account_waits_for_an_administrator(
    client: AsyncClient, actors: Actors, auth: Change
) -> None:
    root = await actors("root", admin=True)
    auth(registration="verified")
    await register(client)
    refused(await login(client), 401, "invalid_credentials")
    (found,) = (await root.get("/api/v1/users", params={"verified": False})).json()["items"]
    assert found["email"] == ANN["email"]
    let_in = await root.patch(f"/api/v1/users/{found['id']}", json={"verified": True})
    assert let_in.status_code == 200
    assert (await login(client)).status_code == 200


async def test_closed_registration_makes_nothing(
    app: Ferrule, client: AsyncClient, auth: Change
) -> None:
    auth(registration="closed")
    refused(await register(client), 403, "registration_closed")
    assert await _count(app) == 0


async def _count(app: Ferrule) -> int:
    async with app.kit[Database].read() as session:
        return await session.scalar(select(func.count()).select_from(User))


def _headers(response: object, without: set[str]) -> dict[str, str]:
    headers: dict[str, str] = dict(response.headers)  # type: ignore[attr-defined]
    return {name: value for name, value in headers.items() if name not in without}
