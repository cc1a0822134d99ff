"""Warnings in development: they come, name the place, and come to nobody else."""

import asyncio
import linecache
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import greenlet
import pytest
import uvloop
from fastapi import APIRouter, Request
from httpx import ASGITransport, AsyncClient
from sqlalchemy import Integer, bindparam, insert, select, text
from sqlalchemy.util import greenlet_spawn

from ferrule import Ferrule, Module, SignedIn, create_app, public
from ferrule.db import Database, Read, ReadSession, Write, prebuilt
from ferrule.http.edge import Edge
from ferrule.modules import SHIPPED
from ferrule.modules.items import Item
from ferrule.observability import development, logs
from ferrule.observability.development import LoopWatch
from ferrule.testing import Actors

DEVELOPMENT = "ferrule.observability.development"
LIMIT = 0.04
"""Seconds for which a callback may hold the loop here."""
BLOCKED = 5 * LIMIT
"""Long enough to be noticed on a busy machine."""
THREAD = "ferrule-loop-watch"

router = APIRouter()
mine = APIRouter()
ONE = prebuilt(select(bindparam("n", type_=Integer).label("n")))
NEW = prebuilt(insert(Item))
Warned = Callable[[], list[dict[str, Any]]]
Work = Callable[[], Awaitable[object]]
Run = Callable[[Work], None]
sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@router.get("/blocking")
async def blocking() -> dict[str, int]:
    time.sleep(BLOCKED)  # noqa: ASYNC251
    return {}


@router.get("/waiting")
async def waiting() -> dict[str, int]:
    await asyncio.sleep(BLOCKED)
    return {}


@router.get("/orm/{n}")
async def by_orm(n: int, session: Read) -> dict[str, int]:
    for _ in range(n):
        await session.execute(text("SELECT 1"))
    return {}


@router.get("/prebuilt/{n}")
async def by_prebuilt(n: int, session: Read) -> dict[str, int]:
    for number in range(n):
        await session.fetch_one(ONE, n=number)
    return {}


@router.get("/writing/{n}")
async def writing(n: int, session: Write) -> dict[str, int]:
    for _ in range(n):
        await session.execute(text("SELECT 1"))
    return {}


@router.get("/sessions/{n}")
async def by_sessions(n: int, request: Request, session: Read) -> dict[str, int]:
    await ask(session, 5)
    async with request.scope["ferrule.kit"][Database].read() as other:
        await ask(other, 6)
    for _ in range(n - 11):
        async with request.scope["ferrule.kit"][Database].read() as other:
            await other.fetch_one(ONE, n=1)
    return {}


@router.get("/tasks/{n}")
async def by_tasks(n: int, request: Request) -> dict[str, int]:
    await asyncio.gather(*(in_task(request.scope["ferrule.kit"][Database]) for _ in range(n)))
    return {}


@mine.get("/stored/{n}")
async def stored(n: int, session: Write, actor: SignedIn) -> dict[str, int]:
    for number in range(n):
        values = {"name": f"Item {number}", "status": "", "quantity": 1, "metadata_": {}}
        session.insert(NEW, owner_id=actor.user_id, **values)
    return {}


async def ask(session: ReadSession, times: int) -> None:
    for _ in range(times):
        await session.scalar(text("SELECT 1"))


async def in_task(database: Database) -> None:
    async with database.read() as session:
        await session.scalar(text("SELECT 1"))


@pytest.fixture
def slow() -> float:
    """The application's limit for callbacks: none where queries are counted."""
    return 0


@pytest.fixture
def application(slow: float) -> Ferrule:
    probes = Module(name="probes", router=router, access=public)
    app = create_app(modules=[*SHIPPED, probes, Module(name="stores", router=mine)])
    observed(app, slow_callback=slow)
    return app


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Warned:
    """The warnings of development so far."""

    def found() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.name == "ferrule.development"]
        assert {record.levelname for record in records} <= {"WARNING"}
        return [record.msg for record in records]  # type: ignore[misc]

    return found


@pytest.fixture
def logging(stderr: object, caplog: pytest.LogCaptureFixture) -> None:
    """Logs as an application has them, without one."""
    logs.configure("info", "json")


def observed(app: Ferrule, environment: str = "development", **settings: Any) -> None:
    update = {
        "environment": environment,
        "allowed_hosts": ["testserver"],
        "observability": app.settings.observability.model_copy(update=settings),
    }
    app.configure(app.settings.model_copy(update=update))


async def first(warned: Warned) -> dict[str, Any]:
    """The first warning, which comes from a thread."""
    async with asyncio.timeout(10):
        while not warned():
            await asyncio.sleep(0.005)
    return warned()[0]


def assert_place(place: str, function: Callable[..., Any], line: str) -> None:
    """It names the file, the function, and a line with this text."""
    found = re.fullmatch(r"(.+):(\d+) in (.+)", place)
    assert found is not None, place
    assert Path(found[1]) == Path(__file__)
    assert found[3] == function.__qualname__
    assert line in linecache.getline(__file__, int(found[2]))


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@asynccontextmanager
async def watching(limit: float = LIMIT) -> AsyncIterator[None]:
    watch = LoopWatch(limit)
    watch.start()
    # Until it knows the loop.
    await asyncio.sleep(limit)
    yield
    await asyncio.sleep(limit)
    watch.stop()


def test_the_thread_it_watched_is_let_go() -> None:
    # What outlives its thread crashed the process once (greenlet, gc.freeze).
    held: list[bool] = []

    async def watch() -> None:
        watch = LoopWatch(LIMIT)
        watch.start()
        held.append(greenlet.getcurrent() in vars(watch).values())
        watch.stop()
        held.append(greenlet.getcurrent() in vars(watch).values())

    asyncio.run(watch())
    assert held == [True, False]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, logging: None) -> Run:
    """Runs a coroutine on a loop of its own, which is watched."""

    def on_loop(work: Work) -> None:
        async def watched() -> None:
            async with watching():
                await work()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(watched())

    return on_loop


@sqlite
@pytest.mark.parametrize("slow", [LIMIT], ids=[""])
async def test_an_endpoint_that_blocks_is_named(client: AsyncClient, warned: Warned) -> None:
    await client.get("/api/v1/waiting")
    await client.get("/api/v1/blocking")
    warning = await first(warned)
    assert warning["event"] == "event loop was blocked"
    assert warning["seconds"] > LIMIT
    assert "to_thread" in warning["hint"]
    assert_place(warning["place"], blocking, "time.sleep(BLOCKED)")


@sqlite
@pytest.mark.parametrize("slow", [LIMIT], ids=[""])
async def test_the_thread_ends_with_the_application(application: Ferrule, app: Ferrule) -> None:
    (thread,) = watchers()
    assert thread.daemon
    async with application.router.lifespan_context(application):
        assert len(watchers()) == 2
    assert watchers() == [thread]


async def _sleeps() -> None:
    time.sleep(BLOCKED)  # noqa: ASYNC251


async def _computes() -> None:
    # In the end one call lets no other thread run for long.
    computed, length = 0.0, 10**6
    while computed < 2 * LIMIT:
        began, length = time.thread_time(), 2 * length
        sum(range(length))
        computed = time.thread_time() - began


async def _in_a_greenlet() -> None:
    await greenlet_spawn(subprocess.run, ["sleep", str(BLOCKED)])


@pytest.mark.parametrize(
    ("work", "line"),
    [(_sleeps, "time.sleep"), (_computes, "sum("), (_in_a_greenlet, "greenlet_spawn(")],
)
def test_the_line_that_blocks(work: Any, line: str, run: Run, warned: Warned) -> None:
    run(work)
    (place,) = {each["place"] for each in warned() if each["place"].endswith(work.__name__)}
    assert_place(place, work, line)


def test_where_nothing_is_the_applications_own(run: Run, warned: Warned) -> None:
    async def later() -> None:
        asyncio.get_running_loop().call_soon(subprocess.run, ["sleep", str(BLOCKED)])
        await asyncio.sleep(LIMIT)

    run(later)
    assert any("subprocess.py:" in warning["place"] for warning in warned())


def test_what_waits_and_what_is_short_does_not_block(run: Run, warned: Warned) -> None:
    async def patient() -> None:
        await asyncio.sleep(BLOCKED)
        loop = asyncio.get_running_loop()
        # One turn of the loop, long in all.
        for _ in range(30):
            loop.call_soon(time.sleep, LIMIT / 8)
        await asyncio.sleep(0)
        for _ in range(30):
            time.sleep(LIMIT / 8)  # noqa: ASYNC251
            await asyncio.sleep(0)

    run(patient)
    assert warned() == []


@pytest.mark.parametrize("run", [asyncio.new_event_loop], indirect=True, ids=["asyncio"])
def test_a_place_is_told_of_once_in_a_while(
    run: Run, warned: Warned, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def thrice() -> None:
        for _ in range(2):
            await _sleeps()
            await asyncio.sleep(LIMIT)
        await _in_a_greenlet()
        await asyncio.sleep(LIMIT)

    def told() -> list[str]:
        functions = [warning["place"].rpartition(" ")[2] for warning in warned()]
        return [name for name in functions if name in ("_sleeps", "_in_a_greenlet")]

    run(thrice)
    assert told() == ["_sleeps", "_in_a_greenlet"]
    monkeypatch.setattr(development, "QUIET", 0)
    run(thrice)
    assert told().count("_sleeps") > 1


def test_a_callback_that_never_ends_is_told_of(
    logging: None, warned: Warned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(development, "LONG", BLOCKED)
    release = threading.Event()

    async def endless() -> None:
        async with watching():
            release.wait(10)

    thread = threading.Thread(target=lambda: asyncio.run(endless()))
    thread.start()
    try:
        asyncio.run(first(warned))
    finally:
        release.set()
        thread.join()
    (warning,) = warned()
    assert warning["event"] == "event loop is blocked"
    assert_place(warning["place"], endless, "release.wait")
    assert warning["seconds"] >= BLOCKED


STOPPED = """
import asyncio, time
from ferrule.observability.development import LoopWatch

def block(seconds):
    time.sleep(seconds)

async def main():
    LoopWatch(0.05).start()
    print("watching", flush=True)
    await asyncio.sleep(0.5)
    block(0.3)
    await asyncio.sleep(0.1)

asyncio.run(main())
"""


def test_a_process_that_was_stopped_did_not_block_and_can_end() -> None:
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "watching\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.4)
    process.send_signal(signal.SIGCONT)
    printed, _ = process.communicate(timeout=30)
    assert printed.count("event loop") == 1
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("environment", "limit", "many"),
    [("production", LIMIT, 20), ("development", 0, 0), ("development", None, None)],
)
async def test_they_can_be_turned_off_and_are_in_production(
    application: Ferrule,
    environment: str,
    limit: float | None,
    many: int | None,
    warned: Warned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observed(application, environment, slow_callback=limit, max_queries=many)
    if environment == "production":
        monkeypatch.delitem(sys.modules, DEVELOPMENT)
    async with (
        application.router.lifespan_context(application),
        AsyncClient(transport=ASGITransport(application), base_url="http://testserver") as client,
    ):
        assert (await client.get("/api/v1/orm/50")).status_code == 200
        assert (await client.get("/api/v1/blocking")).status_code == 200
        assert not watchers()
        assert type(application.middleware_stack) is Edge
        assert (DEVELOPMENT in sys.modules) == (environment == "development")
    assert warned() == []


@pytest.mark.parametrize("way", [by_orm, by_prebuilt, writing, by_sessions, by_tasks])
async def test_more_queries_than_the_limit(
    way: Callable[..., Any], client: AsyncClient, warned: Warned
) -> None:
    path = {route.endpoint: route.path for route in router.routes}[way]  # type: ignore[attr-defined]
    assert (await client.get("/api/v1" + path.format(n=20))).status_code == 200
    assert warned() == []
    answer = await client.get("/api/v1" + path.format(n=21))
    (warning,) = warned()
    assert warning["event"] == "many queries in a request"
    assert warning["route"] == f"GET /api/v1{path}"
    assert warning["queries"] == 21
    assert warning["request_id"] == answer.headers["X-Request-ID"]
    assert "relationships-without-n-plus-one.md" in warning["hint"]
    if way is by_sessions:
        # Five and six in another function.
        assert warning["queries_there"] == 11
        assert_place(warning["place"], ask, "session.scalar")
    else:
        assert warning["queries_there"] == 21
        who = in_task if way is by_tasks else way
        assert_place(warning["place"], who, "await session.")


async def test_without_a_plan(app: Ferrule, client: AsyncClient, warned: Warned) -> None:
    app.dependency_overrides[len] = len
    try:
        await client.get("/api/v1/orm/21")
    finally:
        app.dependency_overrides.clear()
    (warning,) = warned()
    assert warning["route"] == "GET /api/v1/orm/{n}"


async def test_what_is_stored_with_the_commit_is_the_endpoints(
    actors: Actors, warned: Warned
) -> None:
    ann = await actors("ann")
    assert (await ann.get("/api/v1/stored/21")).status_code == 200
    (warning,) = warned()
    # And one that asked who is calling.
    assert warning["queries"] == 22
    assert_place(warning["place"], stored, "@mine.get")


async def test_requests_at_once_are_counted_apart(client: AsyncClient, warned: Warned) -> None:
    paths = [f"/api/v1/{way}/15" for way in ("orm", "prebuilt", "tasks") * 2]
    await asyncio.gather(*(client.get(path) for path in paths))
    assert warned() == []
    await asyncio.gather(*(client.get(path) for path in [*paths, "/api/v1/orm/23"]))
    assert [warning["queries"] for warning in warned()] == [23]
