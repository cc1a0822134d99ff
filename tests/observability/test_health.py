import asyncio
import time

import httpx
import pytest
from fastapi import FastAPI

from ferrule.actor import Door
from ferrule.errors import ConfigurationError, Unauthenticated, Unavailable
from ferrule.observability.health import Degraded, Health, router
from ferrule.observability.logs import configure

CANARY = "canary7Yq2Zx"


async def _refuse(connection, kit):
    raise Unauthenticated


@pytest.fixture
async def client(serve):
    clients = []

    def make(health):
        app = serve(router, health, doors=(Door("refusing", _refuse),))
        transport = httpx.ASGITransport(app)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://test"))
        return clients[-1]

    yield make
    for made in clients:
        await made.aclose()


async def fine():
    return {"revision": "0001", "tables": 3}


async def nothing():
    return None


def raising(failure):
    async def check():
        raise failure

    return check


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_all_is_well(client, path):
    health = Health()
    health.add("database", fine)
    health.add("cache", nothing)
    answer = await client(health).get(path, headers={"Cookie": "stale=1"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["status"] == "ok"
    assert body["checks"]["database"].pop("ms") >= 0
    assert body["checks"]["database"] == {
        "status": "ok",
        "detail": {"revision": "0001", "tables": 3},
    }
    assert set(body["checks"]["cache"]) == {"status", "ms"}


@pytest.mark.parametrize(
    ("failure", "detail"),
    [
        (TimeoutError(CANARY), "timeout"),
        (ConnectionRefusedError(CANARY), "unreachable"),
        (Unavailable(CANARY), "unreachable"),
        (RuntimeError(CANARY), "error"),
    ],
)
async def test_a_failure_tells_its_kind_only(client, failure, detail):
    health = Health()
    health.add("good", nothing)
    health.add("bad", raising(failure))
    for path in ("/health", "/health/ready"):
        answer = await client(health).get(path)
        assert answer.status_code == 503
        assert CANARY not in answer.text
        body = answer.json()
        assert body["status"] == "failing"
        assert body["checks"]["good"]["status"] == "ok"
        assert body["checks"]["bad"]["status"] == "failing"
        assert body["checks"]["bad"]["detail"] == detail
    assert (await client(health).get("/health/live")).json() == {"status": "ok", "checks": {}}


@pytest.mark.parametrize("detail", ["slow", {"deaf_for": 1.5, "kind": "redis"}])
async def test_what_is_degraded_stays_in_service(client, detail):
    health = Health()
    health.add("good", nothing)
    health.add("bus", raising(Degraded(detail)))
    for path in ("/health", "/health/ready"):
        answer = await client(health).get(path)
        assert answer.status_code == 200
        body = answer.json()
        assert body["status"] == body["checks"]["bus"]["status"] == "degraded"
        assert body["checks"]["bus"]["detail"] == detail
    health.add("bad", raising(OSError()))
    answer = await client(health).get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "failing")


async def test_checks_run_at_once_and_under_a_deadline(client):
    async def slow():
        await asyncio.sleep(30)

    async def stubborn():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await released.wait()
            raise

    released = asyncio.Event()
    health = Health(deadline=0.1)
    for n in range(5):
        health.add(f"slow{n}", slow)
    health.add("stubborn", stubborn)
    health.add("good", nothing)
    started = time.perf_counter()
    body = (await client(health).get("/health")).json()
    assert time.perf_counter() - started < 5
    assert body["checks"].pop("good")["status"] == "ok"
    assert {check["detail"] for check in body["checks"].values()} == {"timeout"}
    released.set()


@pytest.mark.parametrize("degraded", [False, True])
async def test_details_that_cannot_be_answered_are_a_failure(client, degraded):
    async def check():
        if degraded:
            raise Degraded({"connection": object()})
        return {"connection": object()}

    health = Health()
    health.add("odd", check)
    answer = await client(health).get("/health")
    assert answer.status_code == 503
    assert answer.json()["checks"]["odd"]["detail"] == "error"


async def test_who_asks_meanwhile_gets_the_same_run(client):
    runs = 0

    async def check():
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.05)

    health = Health()
    health.add("counted", check)
    made = client(health)
    impatient = asyncio.create_task(health.report())
    await asyncio.sleep(0)
    impatient.cancel()
    answers = await asyncio.gather(*(made.get("/health") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert runs == 1
    await made.get("/health")
    assert runs == 2


async def test_draining_is_not_ready_and_alive(client):
    health = Health()
    health.add("database", fine)
    health.draining = True
    made = client(health)
    answer = await made.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"]["draining"]["detail"] == "draining"
    assert (await made.get("/health")).status_code == 200
    assert (await made.get("/health/live")).status_code == 200


async def test_a_change_is_logged_once(client, stderr):
    configure("info", "json")
    failing = True

    async def check():
        if failing:
            raise OSError(f"cannot reach postgresql://app:{CANARY}@db")

    health = Health()
    health.add("database", check)
    for _ in range(3):
        await health.report()
    failing = False
    for _ in range(3):
        await health.report()
    events = [line["event"] for line in stderr.lines]
    assert events == ["health check failing", "health check recovered"]
    assert "OSError" in stderr.lines[0]["exception"]
    assert CANARY not in stderr.getvalue()


async def test_degraded_is_logged_once_and_when_it_gets_worse(stderr):
    configure("info", "json")
    failures = [Degraded("slow"), Degraded("slower"), OSError(), Degraded("slow"), None]

    async def check():
        if failure := failures.pop(0):
            raise failure

    health = Health()
    health.add("bus", check)
    while failures:
        await health.report()
    events = [line["event"] for line in stderr.lines]
    told = ("degraded", "failing", "degraded", "recovered")
    assert events == [f"health check {state}" for state in told]
    assert stderr.lines[0]["detail"] == "slow"


def test_a_name_is_taken_once():
    health = Health()
    health.add("database", fine)
    with pytest.raises(ConfigurationError, match="database"):
        health.add("database", fine)


def test_answers_are_documented():
    app = FastAPI()
    app.include_router(router)
    paths = app.openapi()["paths"]
    reference = {"$ref": "#/components/schemas/HealthReport"}
    for path in ("/health", "/health/ready"):
        responses = paths[path]["get"]["responses"]
        for status in ("200", "503"):
            assert responses[status]["content"]["application/json"]["schema"] == reference
        assert paths[path]["get"]["tags"] == ["health"]
    assert set(paths["/health/live"]["get"]["responses"]) == {"200"}
