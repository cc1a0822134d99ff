"""Hostile values in every field and parameter of every route: the same 4xx on both databases."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ferrule import Ferrule, create_app
from ferrule.testing import TestDatabases
from tests.hostile.worlds import CANARY, Worlds, worlds

DEEP = "[" * 100_000 + "]" * 100_000

NEVER = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    f'"{CANARY}\\u0000"',
    f'"{CANARY}\\ud800"',
    f'"\\udfff{CANARY}"',
    str(2**63),
    str(-(2**63) - 1),
    "9" * 5_000,
    '{"a": 1e999}',
    "[" * 200 + "]" * 200,
]
"""JSON that no field takes."""

ODD = [
    *("null", "true", "-1", "0", "1.5", "5e-324", "1e300", "[]", "{}", '""', '" "'),
    f'"{CANARY}"',
    f'"{CANARY * 20}"',
    f'"{CANARY * 9_000}"',
    f'"\\u202e{CANARY}"',
    f'["{CANARY}"]',
    f'{{"{CANARY}": [{{}}]}}',
    *('"0"', '"1e2"', '"-0.001"', '"\\u0661"', '"9999-12-31T23:59:59-14:00"'),
]
"""JSON that some fields take and others refuse."""

TEXTS = [
    *("", " ", "-1", "0", "1.5", "NaN", "Infinity", "1e999", "null", "true", "x", "%", "[]"),
    *(str(2**63), str(-(2**63)), str(2**53 + 2), "9" * 5_000, "\u0661", "1_0", "+1", "0x1"),
    *(f"{CANARY}'--", f"{CANARY}\u202e", CANARY * 1_000, "\ufeff1", f"-{CANARY}", "name,"),
]
"""Values of query parameters, forms and headers."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, address and description of every operation; addresses name bob, and whose rows."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            target = "{bob}" if "/users/" in path else "{whose}s_item"
            if "/rooms/" in path:
                target = "{whose}s_room"
            named = path.replace("{id}", target).replace("{user_id}", "{bob}")
            named = named.replace("{message_id}", "{whose}s_message")
            yield method.upper(), named.replace("{channel}", "rooms/{whose}s_room"), operation


def address(path: str, who: str) -> str:
    return re.sub(r"\{whose\}(s_\w+)", rf"{{{who}\1}}", path)


def schema_of(document: dict[str, Any], operation: dict[str, Any], kind: str) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    name = content.get(kind, {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"].get(name, {})


def valid(schema: dict[str, Any]) -> dict[str, Any]:
    known = {"email": "new@example.com", "password": "correct horse battery staple"}
    known |= {"name": "Milk", "username": "ann@example.com", "token": "x", "refresh_token": "x"}
    known |= {"user_id": "{bob}", "title": "Hello", "body": "", "text": "Hello", "seq": 1}
    return {name: known[name] for name in schema.get("required", ())}


async def test_every_field_of_every_body(both: Worlds, document: dict[str, Any]) -> None:
    fields = 0
    for method, path, operation in operations(document):
        schema = schema_of(document, operation, "application/json")
        base = valid(schema)
        for field in schema.get("properties", {}):
            fields += 1
            for who, values in (("root", [*NEVER, *ODD]), ("ann", NEVER[4:6])):
                for raw in values:
                    send = both.refused if raw in NEVER else both.send
                    content = json.dumps({**base, field: "@"}).replace('"@"', raw)
                    headers = {"Content-Type": "application/json"}
                    await send(who, method, address(path, who), content=content, headers=headers)
    assert fields > 40


async def test_every_field_of_every_form(both: Worlds, document: dict[str, Any]) -> None:
    fields = 0
    for method, path, operation in operations(document):
        schema = schema_of(document, operation, "application/x-www-form-urlencoded")
        for field in schema.get("properties", {}):
            fields += 1
            for text in [*TEXTS, f"{CANARY}\0", CANARY * 110_000, "\0"]:
                form = {**valid(schema), field: text}
                # An empty field counts as left out, and the grant type has a default.
                send = both.send if field == "grant_type" and not text else both.refused
                await send("ann", method, path, data=form)
            for raw in (b"%ff", b"%ed%a0%80", b"%", b"%zz"):
                body = f"{field}=".encode() + raw
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                await both.refused("ann", method, path, content=body, headers=kind)
    assert fields >= 3


async def test_every_query_parameter(both: Worlds, document: dict[str, Any]) -> None:
    parameters = 0
    for method, path, operation in operations(document):
        path = address(path, "root")
        for parameter in operation.get("parameters", ()):
            name = parameter["name"]
            if parameter["in"] != "query":
                continue
            parameters += 1
            for text in TEXTS:
                await both.send("root", method, path, params={name: text})
            await both.send("root", method, path, params=[(name, "1"), (name, CANARY)])
            for text in (f"{CANARY}\0", "\0"):
                await both.refused("root", method, path, params={name: text})
            for raw in ("%ff", "%ed%a0%80", "%c0%80"):
                await both.send("root", method, f"{path}?{name}={raw}")
            assert (await both.refused("ann", "GET", "/api/v1/users")).status_code == 403
    assert parameters > 20
    for path in ("/api/v1/items", "/api/v1/users"):
        for query in (f"limit=1&offset={10**12}", f"limit=100&page={10**12}"):
            assert (await both.send("root", "GET", f"{path}?{query}")).status_code == 200
        for query in (
            "limit=-1",
            "limit=0",
            "limit=101",
            "offset=-1",
            f"offset={10**12 + 1}",
            "page=0",
        ):
            await both.refused("root", "GET", f"{path}?{query}")
        for query in (
            f"unknown={CANARY}",
            "cursor=x",
            "sort=password_hash",
            "&".join(["a=1"] * 10_000),
        ):
            await both.refused("root", "GET", f"{path}?{query}")
        await both.send("root", "GET", f"{path}?{'&'.join(['limit=1'] * 8_000)}")


HEADERS: list[tuple[str, bytes]] = [
    (name, value)
    for name in ("If-Match", "If-None-Match", "X-Request-ID", "Accept", "Accept-Encoding", "Cookie",
                 "Content-Type", "Content-Encoding", "Origin", "User-Agent", "X-Forwarded-For")
    for value in (b"", b" ", b'"', b'W/"', b'"1', b"\xff\xfe", b"*/" * 2_000, b",;=" * 500,
                  CANARY.encode() * 300, b'"' * 3_000, b"application/json; charset=utf-7")
]  # fmt: skip


AUTHORIZATIONS = [
    *(b"", b"Bearer", b"Bearer ", b"bearer \xff", b"Basic eDp5", b"Bearer a.b.c", b"\0"),
    *(b"Bearer \x00", b"Bearer " + b"." * 9_000, b"Bearer " + CANARY.encode() * 1_000),
]


async def test_odd_headers(both: Worlds) -> None:
    for name, value in HEADERS:
        for method in ("GET", "PATCH", "DELETE"):
            path = "/api/v1/items/{anns_item}"
            content = b'{"quantity": -1}' if method == "PATCH" else None
            stale = [("If-Match", b'"999"')] if method == "DELETE" and name != "If-Match" else []
            kind = [] if name == "Content-Type" else [("Content-Type", b"application/json")]
            headers = [*stale, *kind, (name, value)]
            answer = await both.send("ann", method, path, headers=headers, content=content)
            assert answer.status_code == 304 or method == "GET" or answer.status_code >= 400
    for value in AUTHORIZATIONS:
        refused = await both.refused(
            "ann", "GET", "/api/v1/users/me", headers=[("Authorization", value)]
        )
        assert refused.status_code == 401


async def test_ids_that_are_none(both: Worlds) -> None:
    ids = ["x", "0", "-1", "null", "%00", "%ff", "%2e%2e", "..%2f..", f"{CANARY}", "a" * 20_000,
           "%F0%9F%92%A9", "{00000000-0000-0000-0000-000000000000}", "0" * 32,
           "ffffffff-ffff-ffff-ffff-ffffffffffff", str(uuid4()), f"{uuid4()}%00", f"{uuid4()}%0a",
           "urn:uuid:" + str(uuid4()), "\u0661" * 32]  # fmt: skip
    for id in ids:
        id = id.replace("{", "%7b").replace("}", "%7d")
        for who in ("root", "ann"):
            for path in (f"/api/v1/items/{id}", f"/api/v1/users/{id}"):
                for method in ("GET", "DELETE", "PATCH", "PUT"):
                    body = {"json": {"name": "x"}} if method in ("PATCH", "PUT") else {}
                    await both.refused(who, method, path, **body)
            await both.refused(who, "POST", f"/api/v1/items/{id}/restore")


async def test_z1_what_belongs_to_others_is_as_if_missing(both: Worlds) -> None:
    for method, suffix in (("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", ""),
                           ("POST", "/restore")):  # fmt: skip
        body = {"json": {"name": "mine"}} if method in ("PUT", "PATCH") else {}
        for who in ("root", "ann"):
            answers = []
            for id in ("{bobs_item}", str(uuid4())):
                path = f"/api/v1/items/{id}{suffix}"
                headers = {"X-Request-ID": "the-same-of-both"}
                answers.append(await both.refused(who, method, path, headers=headers, **body))
            assert answers[0].status_code == 404
            assert answers[0].content == answers[1].content
            assert answers[0].headers == answers[1].headers


WHOLE_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "blank": b" ",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "nesting": DEEP.encode(),
    "nested objects": b'{"metadata":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "an open bracket": b"[" * 100_000,
    "a byte order mark": b"\xef\xbb\xbf" + b'{"name": "x"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "bytes that are not UTF-8": b'{"name": "\xff\xfe"}',
    "overlong UTF-8": b'{"name": "\xc0\x80"}',
    "a surrogate in UTF-8": b'{"name": "\xed\xa0\x80"}',
    "a raw NUL": b'{"name": "\x00"}',
    "an escape as name": b'{"na\\u0000me": "x"}',
    "cut": b'{"name": "x',
    "more after the end": b'{"name": "x"} {}',
    "a comment": b'{"name": "x" /* */}',
    "single quotes": b"{'name': 'x'}",
    "unknown fields": b'{"name": "x", "unknown": "' + CANARY.encode() + b'"}',
    "owner": b'{"name": "x", "owner_id": "0198a3c2-0000-7000-8000-000000000000"}',
    "prototype": b'{"name": "x", "__proto__": {"admin": true}}',
    "gzip": gzip.compress(b'{"name": "x"}'),
    "a form": b"name=x",
    "one MiB": b'{"name": "x", "description": "' + b"a" * 1_048_576 + b'"}',
    "a million keys": b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}",
}


@pytest.mark.parametrize("body", WHOLE_BODIES.values(), ids=WHOLE_BODIES.keys())
async def test_whole_bodies(both: Worlds, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for method, path in (
        ("POST", "/api/v1/items"),
        ("PATCH", "/api/v1/items/{anns_item}"),
        ("POST", "/api/v1/auth/register"),
        ("POST", "/api/v1/auth/refresh"),
    ):
        await both.refused("ann", method, path, content=body, headers=headers)
        if len(body) > 2_000_000:
            continue
        encoded = {**headers, "Content-Encoding": "gzip"}
        await both.refused("ann", method, path, content=gzip.compress(body), headers=encoded)


async def test_the_last_of_duplicate_keys_counts(both: Worlds) -> None:
    body = b'{"name": "first", "quantity": -1, "quantity": 2, "name": "last"}'
    headers = {"Content-Type": "application/json"}
    made = await both.send("ann", "POST", "/api/v1/items", content=body, headers=headers)
    assert (made.status_code, made.json()["name"], made.json()["quantity"]) == (201, "last", 2)


async def test_a_million_keys_where_the_limit_is_raised(
    databases: TestDatabases, tmp_path: Path
) -> None:
    async with worlds(databases, tmp_path, max_body=2**25) as both:
        headers = {"Content-Type": "application/json"}
        body = WHOLE_BODIES["a million keys"]
        for path in ("/api/v1/items", "/api/v1/auth/refresh"):
            await both.refused("ann", "POST", path, content=body, headers=headers)


REFUSED_EMAILS = [
    *("", "a", "@", "a@", "@b.example", "a@b", "a@@b.com", "a b@c.com", "a@b c.com", "a@-b.com"),
    *("a@b..com", ".a@b.com", "a.@b.com", "a..b@c.com", '"a b"@c.com', '"a"@c.com', "a@[::1]"),
    *("a@b.com\n", "a@b.com\r\nBcc: c@d.com", "a\u0000@b.com", "a@b.com\u202e", "a@localhost"),
    *("a@" + "b" * 64 + ".com", "a@" + "b." * 200 + "com", "a" * 400 + "@b.com"),
    *("Ann <a@b.com>", "a@b.com,c@d.com", "\ud7ff@b.com", "a\u200b@b.com", "a@b\u3002\u3002com"),
]  # fmt: skip


async def test_addresses_that_are_none(both: Worlds) -> None:
    for email in REFUSED_EMAILS:
        body = {"email": email, "password": "correct horse battery staple"}
        for path in ("/api/v1/auth/register", "/api/v1/users"):
            refused = await both.refused("root", "POST", path, json=body)
            assert refused.status_code == 422, email


@pytest.mark.parametrize(
    "spellings",
    [
        ["jos\u00e9@example.org", "jose\u0301@example.org", "JOS\u00c9@example.ORG"],
        ["ann@b\u00fccher.example", "ann@xn--bcher-kva.example", "ann@BU\u0308CHER.example"],
        ["kelvin@example.net", "\u212aelvin@example.net"],
    ],
)  # fmt: skip
async def test_i4_one_address_has_one_account(both: Worlds, spellings: list[str]) -> None:
    body = {"password": "correct horse battery staple"}
    first, *others = spellings
    made = await both.send("ann", "POST", "/api/v1/auth/register", json={"email": first, **body})
    assert made.status_code == 201
    for other in others:
        again = await both.refused(
            "ann", "POST", "/api/v1/auth/register", json={"email": other, **body}
        )
        assert again.json()["code"] in ("email_taken", "validation_error")


async def test_n1_a_password_of_a_mebibyte_is_refused_unhashed(
    both: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(*_: Any) -> str:
        raise AssertionError("it was hashed")

    for world in both.all:
        _no_hashing(world.app, monkeypatch, hashed)
    password = CANARY * 100_000
    form = {"username": "ann@example.com", "password": password}
    await both.refused("ann", "POST", "/api/v1/auth/login", data=form)
    for secret in (password, CANARY * 110, "\u00e4" * 1_025):
        body = {"email": "new@example.com", "password": secret}
        await both.refused("ann", "POST", "/api/v1/auth/register", json=body)
        form = {"username": "ann@example.com", "password": secret}
        await both.refused("ann", "POST", "/api/v1/auth/login", data=form)


def _no_hashing(app: Ferrule, monkeypatch: pytest.MonkeyPatch, instead: Any) -> None:
    from ferrule.security.passwords import PasswordHasher

    for name in ("hash", "verify", "verify_nothing"):
        monkeypatch.setattr(app.kit[PasswordHasher], name, instead)
