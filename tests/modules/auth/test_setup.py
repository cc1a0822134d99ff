"""The first administrator: the link of the first start, its page, and the route behind it."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256

import pytest
from httpx import AsyncClient, Response

from ferrule.app import Ferrule
from ferrule.modules.auth.service import setup_token
from ferrule.modules.auth.welcome import base_url
from ferrule.security.tokens import Tokens
from ferrule.settings import Settings
from ferrule.testing import Actors

from . import ANN, PASSWORD, field_error, login, me, refused, register


async def set_up(client: AsyncClient, token: str, **changes: object) -> Response:
    data = {"token": token, "email": "root@example.com", "password": PASSWORD, **changes}
    return await client.post("/api/v1/auth/setup", json=data)


async def test_the_link_makes_an_administrator(
    app: Ferrule, client: AsyncClient, auth: Callable[..., None]
) -> None:
    made = await set_up(client, setup_token(app.kit), name="Root")
    assert made.status_code == 201
    assert (made.json()["roles"], made.json()["verified"]) == (["admin"], True)
    assert "password_hash" not in made.json()
    auth(registration="verified")
    token = (await login(client, "root@example.com")).json()["access_token"]
    assert (await me(client, token)).json() == made.json()


async def test_50_parallel_setups_make_one_administrator(app: Ferrule, client: AsyncClient) -> None:
    token = setup_token(app.kit)
    answers = await asyncio.gather(
        *(set_up(client, token, email=f"root{number}@example.com") for number in range(50))
    )
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] + [409] * 49
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"already_set_up"}


async def test_the_link_is_good_while_there_is_no_administrator(
    app: Ferrule, client: AsyncClient, actors: Actors
) -> None:
    token = setup_token(app.kit)
    await register(client)
    refused(await set_up(client, token, email=ANN["email"]), 409, "email_taken")
    assert field_error(await set_up(client, token, password="short"))[0] == "password"
    await actors("boss", admin=True)
    refused(await set_up(client, token), 409, "already_set_up")


async def test_s2_only_a_setup_token_sets_up(app: Ferrule, client: AsyncClient) -> None:
    tokens = app.kit[Tokens]
    pair = (await register(client)) and (await login(client)).json()
    for token in ("", "x", pair["access_token"], pair["refresh_token"]):
        refused(await set_up(client, token), 401, "invalid_token")
    late = tokens.issue("setup", subject="setup", ttl=0)
    refused(await set_up(client, late), 401, "invalid_token")


async def test_the_first_start_prints_the_link_and_logs_nothing(
    application: Ferrule,
    app: Ferrule,
    client: AsyncClient,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from ferrule.modules.auth.welcome import lifespan

    capsys.readouterr()
    async with lifespan(app.kit):
        out, err = capsys.readouterr()
    assert out == ""
    assert "http://127.0.0.1:8000/docs" in err
    (token,) = re.findall(r"http://127\.0\.0\.1:8000/setup#token=(\S+)", err)
    assert token not in caplog.text
    assert (await set_up(client, token)).status_code == 201
    logged = capsys.readouterr().err
    assert token not in logged
    async with lifespan(app.kit):
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 80}, "http://localhost:80"),
        ({"host": "::"}, "http://localhost:8000"),
        ({"host": "::1"}, "http://[::1]:8000"),
        ({"host": "box"}, "http://box:8000"),
        ({"public_url": "https://app.org/kit/"}, "https://app.org/kit"),
    ],
)
def test_the_address_is_one_that_people_can_open(values: dict[str, object], expected: str) -> None:
    assert base_url(Settings.model_validate(values)) == expected


async def test_the_page_runs_its_own_script_alone(client: AsyncClient) -> None:
    page = await client.get("/setup")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"


async def test_the_page_works_behind_a_prefix_and_without_a_mouse(client: AsyncClient) -> None:
    text = (await client.get("/setup")).text
    # Relative addresses only: a prefix that a proxy takes away is not lost.
    assert 'fetch("api/v1/auth/setup"' in text
    assert not re.findall(r"""(?:href|src)=["']?/""", text)
    fields = re.findall(r"<label>[^<]+\n<input name=\"(\w+)\"", text)
    assert fields == ["email", "name", "password"]
    assert 'lang="en"' in text
    assert 'role="alert"' in text


async def test_the_page_says_that_it_is_set_up(client: AsyncClient, actors: Actors) -> None:
    await actors("root", admin=True)
    page = await client.get("/setup")
    assert page.status_code == 404
    assert "Already set up" in page.text
    assert "<form" not in page.text
