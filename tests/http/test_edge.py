"""What every request passes: ids, hosts, headers, limits, and one shape of errors."""

import json
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body
from httpx import ASGITransport, AsyncClient

from ferrule import Anyone, Ferrule, Module, Schema, SignedIn, create_app
from ferrule.modules import SHIPPED
from ferrule.testing import Actors

router = APIRouter()


class Echo(Schema):
    text: str = ""


@router.get("/broken")
async def broken(actor: Anyone) -> Echo:
    raise ZeroDivisionError("with a secret inside: hunter2")


@router.get("/misanswered")
async def misanswered(actor: Anyone) -> Echo:
    return {"text": 5}  # type: ignore[return-value]


@router.post("/large", max_body_size=2_000_000)
async def large(data: Echo, actor: Anyone) -> dict[str, int]:
    return {"length": len(data.text)}


@router.post("/raw")
async def raw(data: Annotated[dict[str, Any], Body()], actor: Anyone) -> dict[str, Any]:
    return data


@router.get("/mine")
async def mine(actor: SignedIn) -> Echo:
    return Echo(text=str(actor))


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[*SHIPPED, Module(name="probes", router=router)])


def problem_of(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem of an answer, which must have this shape everywhere."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


async def test_every_failure_is_a_problem(client: AsyncClient) -> None:
    problem_of(await client.get("/nowhere"), 404, "not_found")
    problem_of(await client.get("/api/v1/nowhere"), 404, "not_found")
    refused = await client.delete("/api/v1/health")
    problem_of(refused, 405, "method_not_allowed")
    assert refused.headers["Allow"] == "GET"
    problem_of(await client.get("/api/v1/mine"), 401, "unauthenticated")
    problem_of(
        await client.get("/api/v1/mine", headers={"Authorization": "Bearer x"}),
        401,
        "invalid_token",
    )
    text = await client.post("/api/v1/raw", content=b"{}", headers={"Content-Type": "text/plain"})
    problem_of(text, 415, "unsupported_media_type")
    assert text.headers["Accept"] == "application/json"
    as_json = await client.post("/api/v1/auth/login", json={"username": "a", "password": "b"})
    problem_of(as_json, 415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["broken", "misanswered"])
async def test_h7_a_defect_is_logged_and_not_told(
    client: AsyncClient, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await client.get(f"/api/v1/{path}")
    problem = problem_of(answer, 500, "internal_error")
    assert "hunter2" not in answer.text
    assert "Zero" not in answer.text
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line[0] == "{"]
    mine = [line for line in logged if line.get("request_id") == problem["request_id"]]
    assert {line["event"] for line in mine} == {"unhandled exception", "request"}
    assert mine[-1]["status"] == 500
    assert mine[-1]["route"] == f"/api/v1/{path}"


async def test_request_ids_are_taken_over_if_plain(client: AsyncClient) -> None:
    given = await client.get("/nowhere", headers={"X-Request-ID": "trace-0123.ABC"})
    assert given.headers["X-Request-ID"] == "trace-0123.ABC"
    for hostile in ("short", "x" * 65, "with space in it", 'quo"te-quo"te', "new\\nline-here"):
        answer = await client.get("/nowhere", headers={"X-Request-ID": hostile})
        assert len(answer.headers["X-Request-ID"]) == 32


async def test_h1_security_headers_are_on_every_answer(client: AsyncClient, actors: Actors) -> None:
    for answer in (await client.get("/nowhere"), await client.get("/api/v1/broken")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "Strict-Transport-Security" not in answer.headers
    ann = await actors("ann")
    private = await ann.get("/api/v1/mine")
    assert private.headers["Cache-Control"] == "no-store"
    assert "Authorization" in private.headers.get_list("Vary", split_commas=True)


async def test_an_expired_credential_does_not_close_public_routes(client: AsyncClient) -> None:
    answer = await client.post("/api/v1/raw", json={}, headers={"Authorization": "Bearer stale"})
    assert answer.status_code == 200


@pytest.mark.parametrize("headers", [[], [("Host", "a.example"), ("Host", "b.example")]])
async def test_h4_one_host_is_demanded(app: Ferrule, headers: list[tuple[str, str]]) -> None:
    status, body = await _raw_get(app, headers)
    assert status == 400
    assert body["code"] == "bad_host"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("api.example.com", True),
        ("API.Example.com:8443", True),
        ("x.internal.example", True),
        ("internal.example", False),
        ("evil.example", False),
        ("api.example.com.evil.example", False),
        ("", False),
    ],
)
async def test_h4_hosts_are_those_allowed(application: Ferrule, host: str, allowed: bool) -> None:
    application.configure(
        application.settings.model_copy(
            update={"allowed_hosts": ["api.example.com", "*.internal.example"]}
        )
    )
    status, _ = await _raw_get(application, [("Host", host)])
    assert status == (404 if allowed else 400)


async def test_a_nul_in_the_address_is_refused(client: AsyncClient) -> None:
    problem_of(await client.get("/api/v1/items/%00"), 400, "bad_address")
    problem_of(await client.get("/api/v1/items?search=%00"), 400, "bad_address")


@pytest.mark.parametrize("path", ["items", "raw", "health", "nowhere"])
async def test_i1_bodies_are_counted_as_they_arrive(client: AsyncClient, path: str) -> None:
    async def chunks() -> Any:
        yield b'{"text":"'
        for _ in range(20):
            yield b"x" * 100_000
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    for content in (chunks(), b" " * 2_000_000):
        answer = await client.post(f"/api/v1/{path}", content=content, headers=headers)
        if isinstance(content, bytes) or path in ("raw", "items"):
            problem_of(answer, 413, "body_too_large")
        else:
            assert answer.status_code in (404, 405)


async def test_i1_a_route_can_have_a_limit_of_its_own(client: AsyncClient) -> None:
    fits = await client.post("/api/v1/large", json={"text": "x" * 99_000})
    assert fits.json() == {"length": 99_000}
    headers = {"Content-Type": "application/json"}
    larger = await client.post("/api/v1/large", content=b" " * 1_500_000 + b"{}", headers=headers)
    assert larger.status_code == 200
    problem_of(
        await client.post("/api/v1/large", content=b" " * 2_000_001, headers=headers),
        413,
        "body_too_large",
    )


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"{", []),
        (b'{"a": NaN}', []),
        (b'{"a": -Infinity}', []),
        (b'{"a": 1e999}', ["a"]),
        (b'{"a": "\\ud800"}', []),
        (b'{"a": ["\\u0000"]}', ["a", 0]),
        (b'{"a\\u0000": 1}', []),
        (b'{"a": {"b": 9223372036854775808}}', ["a", "b"]),
        (b'{"a": -9223372036854775809}', ["a"]),
        (b'{"a": ' + b"1" * 5000 + b"}", []),
        (b"[" * 100_000, []),
        (b'{"a":' * 70 + b"1" + b"}" * 70, []),
        (b'{"a": "\xff"}', []),
    ],
)
async def test_i2_hostile_json_is_refused_before_any_route(
    client: AsyncClient, body: bytes, loc: list[Any]
) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = await client.post("/api/v1/raw", content=body, headers=headers)
    problem = problem_of(answer, 422, "invalid_json")
    assert [error["loc"] for error in problem["errors"]] == [["body", *loc]]


async def test_t10_refused_values_are_not_echoed(client: AsyncClient) -> None:
    canary = "correct horse canary staple"
    answer = await client.post(
        "/api/v1/auth/register", json={"email": canary, "password": {"x": canary}, "name": 5}
    )
    problem = problem_of(answer, 422, "validation_error")
    assert "canary" not in answer.text
    assert {tuple(error["loc"]) for error in problem["errors"]} == {
        ("body", "email"),
        ("body", "password"),
        ("body", "name"),
    }


async def test_the_envelope_comes_when_asked_for(client: AsyncClient, actors: Actors) -> None:
    wanted = {"Accept": "application/vnd.ferrule.envelope+json"}
    ann = await actors("ann")
    made = await ann.post("/api/v1/items", json={"name": "Milk", "price": "1.10"}, headers=wanted)
    assert made.status_code == 201
    assert made.json()["success"] is True
    assert made.json()["data"]["price"] == "1.10"
    assert made.headers["Content-Type"] == wanted["Accept"]
    assert int(made.headers["Content-Length"]) == len(made.content)
    listed = (await ann.get("/api/v1/items", headers=wanted)).json()
    assert listed["data"][0]["name"] == "Milk"
    assert listed["pagination"] == {"page": 1, "limit": 50, "total": 1, "next": None}
    for path, status, code in (
        ("/nowhere", 404, "not_found"),
        ("/api/v1/broken", 500, "internal_error"),
        ("/api/v1/items", 401, "unauthenticated"),
    ):
        refused = await client.get(path, headers=wanted)
        assert refused.status_code == status
        assert refused.json()["success"] is False
        assert refused.json()["error"]["code"] == code
        assert refused.json()["error"]["message"]
    gone = await ann.delete(made.headers["Location"], headers=wanted)
    assert (gone.status_code, gone.content) == (204, b"")


async def test_the_envelope_can_be_the_default(application: Ferrule) -> None:
    http = application.settings.http.model_copy(update={"envelope": "always"})
    application.configure(application.settings.model_copy(update={"http": http}))
    transport = ASGITransport(application)
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        assert (await client.get("/nowhere")).json()["success"] is False
        assert "openapi" in (await client.get("/openapi.json")).json()


async def test_h2_cors_lets_listed_origins_in(client: AsyncClient) -> None:
    async def preflight(origin: str) -> Any:
        headers = {"Origin": origin, "Access-Control-Request-Method": "PATCH"}
        return await client.options("/api/v1/items", headers=headers)

    allowed = await preflight("http://localhost:5173")
    assert allowed.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    refused = await preflight("http://evil.example")
    assert "Access-Control-Allow-Origin" not in refused.headers
    failing = await client.get("/api/v1/broken", headers={"Origin": "http://localhost:3000"})
    assert failing.status_code == 500
    assert failing.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "ETag" in failing.headers["Access-Control-Expose-Headers"]


async def test_metrics_count_by_route_and_status(client: AsyncClient) -> None:
    await client.get("/api/v1/items/01a1fc00-8c1c-7bce-912c-5f2e8ba5785a")
    await client.get("/nowhere/1")
    text = (await client.get("/metrics")).text
    assert 'http_requests_total{method="GET",route="/api/v1/items/{id}",status="401"} 1.0' in text
    assert 'http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert "http_requests_in_flight 1.0" in text


async def _raw_get(app: Ferrule, headers: list[tuple[str, str]]) -> tuple[int, Any]:
    """A request as no client library would send it."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/nowhere",
        "raw_path": b"/nowhere",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])
