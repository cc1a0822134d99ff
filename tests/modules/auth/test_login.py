"""Signing in, being somebody, signing out."""

from collections.abc import Callable

import pytest
from httpx import AsyncClient
from sqlalchemy import select

from ferrule.app import Ferrule
from ferrule.db import Database
from ferrule.modules.auth import Login, User
from ferrule.security.passwords import PasswordHasher
from ferrule.security.settings import SecuritySettings
from ferrule.security.tokens import Tokens
from ferrule.testing import Actors

from . import ANN, PASSWORD, login, me, refresh, refused, register


async def test_signing_in_gives_a_pair_of_tokens(client: AsyncClient) -> None:
    await register(client)
    answer = await login(client)
    assert answer.status_code == 200
    pair = answer.json()
    assert set(pair) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (pair["token_type"], pair["expires_in"]) == ("bearer", 900)
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await me(client, pair["access_token"])).json()["email"] == ANN["email"]


async def test_the_form_is_oauth2s(client: AsyncClient) -> None:
    await register(client)
    form = {
        "grant_type": "password",
        "username": ANN["email"].upper(),
        "password": PASSWORD,
        "scope": "",
        "client_id": "swagger",
        "client_secret": "",
        "unknown": "ignored",
    }
    assert (await client.post("/api/v1/auth/login", data=form)).status_code == 200
    form["grant_type"] = "authorization_code"
    assert (await client.post("/api/v1/auth/login", data=form)).status_code == 422
    assert (await client.post("/api/v1/auth/login", json=form)).status_code == 415


async def test_n3_refusals_are_alike(
    app: Ferrule,
    client: AsyncClient,
    actors: Actors,
    auth: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasher = app.kit[PasswordHasher]
    done: list[str] = []
    for name in ("verify", "verify_nothing"):

        async def noted(*args: str, _inner: object = getattr(hasher, name)) -> object:
            done.append("verified")
            return await _inner(*args)  # type: ignore[operator]

        monkeypatch.setattr(hasher, name, noted)
    root = await actors("root", admin=True)
    ann = (await register(client)).json()
    dis = (await register(client, email="dis@example.com")).json()
    await root.patch(f"/api/v1/users/{dis['id']}", json={"disabled": True})
    await root.patch(f"/api/v1/users/{ann['id']}", json={"verified": True})
    await register(client, email="unverified@example.com")
    auth(registration="closed")
    answers = [
        await login(client, "nobody@example.com"),
        await login(client, "not an address"),
        await login(client, ANN["email"], "another password"),
        await login(client, "dis@example.com"),
        await login(client, "unverified@example.com"),
    ]
    assert done == ["verified"] * 5
    for answer in answers:
        refused(answer, 401, "invalid_credentials")
    bodies = [{**answer.json(), "request_id": ""} for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    headers = [{k: v for k, v in a.headers.items() if k != "x-request-id"} for a in answers]
    assert all(each == headers[0] for each in headers)
    assert (await login(client)).status_code == 200


async def test_an_account_without_a_password_has_no_password(
    app: Ferrule, client: AsyncClient
) -> None:
    async with app.kit[Database].write() as session:
        session.add(User(email=ANN["email"], verified=True))
    refused(await login(client, password=""), 422, "validation_error")
    refused(await login(client), 401, "invalid_credentials")


async def test_a_weaker_hash_is_replaced_at_the_next_login(
    app: Ferrule, client: AsyncClient
) -> None:
    await register(client)
    stronger = PasswordHasher(SecuritySettings(argon2_memory_kib=32, argon2_passes=2))
    app.kit[PasswordHasher].close()
    app.kit.provide(stronger)
    try:
        assert (await login(client)).status_code == 200
        async with app.kit[Database].read() as session:
            stored: str = await session.scalar(select(User.password_hash))
        assert stored.startswith("$argon2id$v=19$m=32,t=2,p=1$")
        assert (await login(client)).status_code == 200
    finally:
        stronger.close()


async def test_the_device_is_noted_shortened_and_printable(
    app: Ferrule, client: AsyncClient
) -> None:
    await register(client)
    client.headers["User-Agent"] = "Browser\t" + "x" * 500
    await login(client)
    async with app.kit[Database].read() as session:
        noted: str = await session.scalar(select(Login.user_agent))
    assert noted == "Browser" + "x" * 193


async def test_s6_signing_out_acts_at_once_and_on_this_login_alone(client: AsyncClient) -> None:
    await register(client)
    here, there = (await login(client)).json(), (await login(client)).json()
    bearer = {"Authorization": f"Bearer {here['access_token']}"}
    out = await client.post("/api/v1/auth/logout", headers=bearer)
    assert (out.status_code, out.content) == (204, b"")
    refused(await me(client, here["access_token"]), 401, "invalid_token")
    again = await client.post("/api/v1/auth/refresh", json={"refresh_token": here["refresh_token"]})
    refused(again, 401, "invalid_token")
    assert (await me(client, there["access_token"])).status_code == 200


async def test_logins_of_the_past_are_cleared_away(
    app: Ferrule, client: AsyncClient, auth: Callable[..., None]
) -> None:
    await register(client)
    await login(client)
    async with app.kit[Database].write() as session:
        old = await session.scalar(select(Login))
        old.expires_at = old.created_at
    await login(client)
    async with app.kit[Database].read() as session:
        left = list((await session.execute(select(Login.id))).scalars())
    assert len(left) == 1
    assert left != [old.id]


async def test_s1_hostile_tokens_are_refused(app: Ferrule, client: AsyncClient) -> None:
    await register(client)
    good = (await login(client)).json()["access_token"]
    head, body, signature = good.split(".")
    hostile = [
        "",
        "x",
        good[:-2],
        f"{head}.{body}.",
        f"eyJhbGciOiJub25lIn0.{body}.",
        f"eyJhbGciOiJub25lIn0.{body}.{signature}",
        f"{good}.{signature}",
        "x" * 20_000,
        f"{good} {good}",
    ]
    for token in hostile:
        refused(await me(client, token), 401, "invalid_token")
    for raw in (b"Bearer \xff\xfe", b"Bearer " + "é".encode(), b"Bearer"):
        answer = await client.get("/api/v1/users/me", headers=[(b"Authorization", raw)])
        refused(answer, 401, "invalid_token")
    twice = [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]
    refused(await client.get("/api/v1/users/me", headers=twice), 401, "invalid_token")


async def test_s2_only_an_access_token_opens(app: Ferrule, client: AsyncClient) -> None:
    user = (await register(client)).json()
    pair = (await login(client)).json()
    refused(await me(client, pair["refresh_token"]), 401, "invalid_token")
    answer = await client.post("/api/v1/auth/refresh", json={"refresh_token": pair["access_token"]})
    refused(answer, 401, "invalid_token")
    tokens = app.kit[Tokens]
    for claims in ({}, {"sid": "x"}, {"sid": 1}, {"sid": user["id"]}):
        strange = tokens.issue("access", subject=user["id"], ttl=60, claims=claims)
        refused(await me(client, strange), 401, "invalid_token")


async def test_other_schemes_are_nobody(client: AsyncClient) -> None:
    for header in ("Basic YTpi", "bearerx y", "Digest x"):
        answer = await client.get("/api/v1/users/me", headers={"Authorization": header})
        refused(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_an_old_token_keeps_nobody_from_signing_in(client: AsyncClient) -> None:
    client.headers["Authorization"] = "Bearer x"
    assert (await register(client)).status_code == 201
    pair = (await login(client)).json()
    assert (await refresh(client, pair["refresh_token"])).status_code == 200
