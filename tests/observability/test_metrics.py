from uuid import uuid4

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ferrule.actor import ANONYMOUS, Access, Actor, Door
from ferrule.errors import Unauthenticated
from ferrule.observability.metrics import MAX_ROUTES, METHODS, Metrics, metrics_routes
from ferrule.observability.settings import ObservabilitySettings

TOKEN = "canary7Yq2Zx-ö"


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_counts_requests_by_method_route_and_status():
    metrics = Metrics(version="1.2.3")
    for status in (200, 200, 404):
        metrics.started()
        metrics.finished("GET", "/items/{id}", status, 0.003)
    metrics.started()
    labels = {"method": "GET", "route": "/items/{id}"}
    assert value(metrics, "http_requests_total", **labels, status="200") == 2
    assert value(metrics, "http_requests_total", **labels, status="404") == 1
    assert value(metrics, "http_request_duration_seconds_count", **labels) == 3
    assert value(metrics, "http_request_duration_seconds_bucket", **labels, le="0.0025") == 0
    assert value(metrics, "http_request_duration_seconds_bucket", **labels, le="0.005") == 3
    assert value(metrics, "http_requests_in_flight") == 1
    assert value(metrics, "ferrule_info", version="1.2.3") == 1


def test_applications_do_not_share():
    one, two = Metrics(version="1"), Metrics(version="1")
    one.started()
    assert value(two, "http_requests_in_flight") == 0


def test_clients_cannot_make_labels():
    metrics = Metrics(version="1")
    for n in range(MAX_ROUTES + 500):
        metrics.finished(f"M{n}", None, 404, 0.1)
        metrics.finished("GET", f"/{n}", 200 if n % 2 else n + 600, 0.1)
    samples = [
        sample
        for family in metrics.registry.collect()
        if family.name == "http_requests"
        for sample in family.samples
        if sample.name == "http_requests_total"
    ]
    assert {sample.labels["method"] for sample in samples} <= {*METHODS, "OTHER"}
    assert {sample.labels["status"] for sample in samples} == {"200", "404", "500"}
    assert len({sample.labels["route"] for sample in samples}) == MAX_ROUTES
    assert value(metrics, "http_requests_total", method="OTHER", route="unmatched", status="404")
    assert len(metrics._bound) <= MAX_ROUTES + 4


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("text/plain;version=\xe9,,;", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (
            "Application/OpenMetrics-Text;version=x;q=0.5,text/plain;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            parse_openmetrics,
        ),
    ],
)
def test_renders_what_is_accepted(accept, content_type, parse):
    metrics = Metrics(version="1")
    metrics.finished("GET", "/a", 200, 0.1)
    body, answered = metrics.render(accept)
    assert answered == content_type
    names = {family.name for family in parse(body.decode())}
    assert {"ferrule_info", "http_requests", "http_request_duration_seconds"} <= names
    assert {"python_info", "python_gc_collections"} <= names


async def _enter(connection, kit):
    shown = connection.headers.get("authorization")
    if shown is None:
        return None
    if shown == "Bearer admin":
        return Actor("user", uuid4(), frozenset({"admin"}))
    if shown == "Bearer user":
        return Actor("user", uuid4())
    raise Unauthenticated


@pytest.fixture
def client(serve):
    def make(*, production=False, **settings):
        router = metrics_routes(ObservabilitySettings(**settings), production=production)
        app = serve(router, Metrics(version="1"), doors=(Door("test", _enter),))
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    return make


async def status(client, authorization=None):
    headers = {"Authorization": authorization.encode()} if authorization else {}
    return (await client.get("/metrics", headers=headers)).status_code


async def test_open_in_development(client):
    answer = await client().get("/metrics", headers={"Authorization": "Bearer stale"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    assert "http_requests_in_flight" in answer.text


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (None, 404),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Basic {TOKEN}", 404),
        (f"Bearer {TOKEN}x", 404),
        ("Bearer", 404),
        ("Bearer user", 404),
        ("Bearer admin", 200),
    ],
)
async def test_protected_in_production(client, authorization, expected):
    assert await status(client(production=True, metrics_token=TOKEN), authorization) == expected


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_opens_nothing(client, token):
    protected = client(metrics="protected", metrics_token=token)
    assert await status(protected, "Bearer ") == 404
    assert await status(protected, "Bearer x") == 404
    assert await status(protected, "Bearer admin") == 200
    assert (await protected.get("/metrics")).json() == {"code": "not_found"}


async def test_off_has_no_route(client):
    assert metrics_routes(ObservabilitySettings(metrics="off"), production=True).routes == []
    assert await status(client(metrics="off"), "Bearer admin") == 404


def test_the_route_declares_its_access():
    router = metrics_routes(ObservabilitySettings(), production=True)
    (route,) = router.routes
    (access,) = [dependency.dependency for dependency in route.dependencies]
    assert isinstance(access, Access)
    assert access.anonymous
    assert access.allows(ANONYMOUS)
    assert not route.include_in_schema
