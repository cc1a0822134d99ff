"""What a worker does with what functions do."""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, text, update

from ferrule import Actor, Conflict, Ferrule, Unavailable
from ferrule.db import Database, WriteSession, prebuilt, utcnow
from ferrule.jobs import JobFailed, Retry, Run, queue, recorder, requests
from ferrule.jobs.models import Job
from ferrule.jobs.run import Lost
from ferrule.jobs.worker import Worker
from ferrule.modules.items import Item
from tests.jobs.conftest import (
    Ask,
    Look,
    Started,
    blocking,
    capped,
    fail,
    give_up,
    hold,
    once_more,
    slow,
    until,
    write_item,
)


@pytest.fixture
async def owner(actors: Any) -> Actor:
    return Actor(kind="user", id=UUID((await actors("ann")).user["id"]))


async def items(app: Ferrule) -> int:
    async with app.kit[Database].read() as session:
        return await session.scalar(select(func.count()).select_from(Item))


async def change(app: Ferrule, id: UUID, **values: Any) -> None:
    async with app.kit[Database].write() as session:
        await session.execute(update(Job.__table__).where(Job.id == id).values(**values))


async def test_what_fails_is_tried_again_and_ends_as_failed(
    ask: Ask, look: Look, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    id = await ask(fail)
    assert await worker.drain() == 3
    job = await look(id)
    assert (job.status, job.attempts) == ("failed", 3)
    # Nobody wrote the text of that error for the job's reader.
    assert job.error == "RuntimeError"
    assert job.finished_at is not None


async def test_a_function_gives_up_or_asks_again(ask: Ask, look: Look, worker: Worker) -> None:
    given_up, again = await ask(give_up), await ask(once_more)
    await worker.drain()
    job = await look(given_up)
    assert (job.status, job.attempts, job.error) == ("failed", 1, "There is no such order.")
    job = await look(again)
    assert (job.status, job.attempts, job.result, job.error) == ("completed", 2, 2, None)


async def test_an_attempt_has_a_deadline(ask: Ask, look: Look, worker: Worker) -> None:
    id = await ask(slow)
    await worker.drain()
    job = await look(id)
    assert (job.status, job.error) == ("failed", "It took longer than 0.1 s.")


async def test_what_blocks_runs_in_a_thread(
    ask: Ask, look: Look, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(4)

    def meet(run: Run, seconds: float) -> str:
        together.wait(timeout=10)
        run.progress(1)
        return "done"

    monkeypatch.setattr(blocking, "function", meet)
    ids = [await ask(blocking, 0.0) for _ in range(4)]
    await worker.drain()
    for id in ids:
        job = await look(id)
        assert (job.status, job.result, job.progress) == ("completed", "done", 1)


async def test_what_is_written_at_the_end_is_written_once(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, owner: Actor
) -> None:
    id = await ask(write_item, "tea!!", actor=owner)
    assert await worker.drain() == 3
    job = await look(id)
    assert (job.status, job.attempts, await items(app)) == ("completed", 3, 1)


async def test_nothing_is_written_under_a_claim_that_is_over(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, started: Started, owner: Actor
) -> None:
    id = await ask(hold, actor=owner)
    async with worker.running():
        await started.wait()
        await change(app, id, epoch=7, owner="another")
        run = started.runs[0]
        with pytest.raises(Lost):
            async with run.write() as session:
                session.add(
                    Item(name="a", status="", quantity=1, metadata_={}, owner_id=owner.user_id)
                )
        # Rows and jobs that no statement comes after are no way around.
        for add in (_prebuilt, _job):
            with pytest.raises(Lost):
                async with run.write() as session:
                    await add(session, owner)
        with pytest.raises(Lost):
            await run.session.execute(text("SELECT 1"))
        await until(lambda: _idle(worker))
    job = await look(id)
    assert (job.status, job.epoch, job.owner) == ("running", 7, "another")
    assert await items(app) == 0
    async with app.kit[Database].read() as session:
        assert await session.scalar(select(func.count()).select_from(Job)) == 1


async def _prebuilt(session: WriteSession, owner: Actor) -> None:
    values = {"name": "a", "description": None, "price": None, "metadata_": {}}
    session.insert(prebuilt(insert(Item)), **values, status="", quantity=1, owner_id=owner.user_id)


async def _job(session: WriteSession, owner: Actor) -> None:
    await session.enqueue(fail)


async def _idle(worker: Worker) -> bool:
    return worker.busy == 0


async def test_progress_is_stored_while_it_runs(
    ask: Ask, look: Look, worker: Worker, started: Started
) -> None:
    id = await ask(hold)
    async with worker.running():
        await started.wait()

        async def shown() -> bool:
            job = await look(id)
            return (job.status, job.progress, job.note) == ("running", 0.5, "half of it")

        await until(shown, 2)
        started.go.set()
        await until(lambda: _idle(worker))
    assert (await look(id)).result == "held"


async def test_a_running_job_sees_within_a_second_that_it_is_cancelled(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, started: Started
) -> None:
    id = await ask(hold)
    async with worker.running():
        await started.wait()
        async with app.kit[Database].write() as session:
            job = (await session.execute(select(Job).where(Job.id == id))).scalar_one()
            assert (await requests.cancel(session, job)).status == "running"
        await until(lambda: _idle(worker), 1)
    job = await look(id)
    assert (job.status, job.attempts) == ("cancelled", 1)
    assert job.finished_at is not None


async def test_cancelling_does_not_wait_for_a_transaction_of_the_job(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, started: Started
) -> None:
    if app.kit[Database].embedded:
        pytest.skip("SQLite has one writer")
    id = await ask(hold)
    async with worker.running():
        await started.wait()
        await started.runs[0].session.execute(text("SELECT 1"))
        async with asyncio.timeout(1), app.kit[Database].write() as session:
            job = (await session.execute(select(Job).where(Job.id == id))).scalar_one()
            await requests.cancel(session, job)
        await until(lambda: _idle(worker), 1)
    assert (await look(id)).status == "cancelled"


async def test_stopping_hands_back_without_charging(
    app: Ferrule,
    ask: Ask,
    look: Look,
    worker: Worker,
    another: Callable[[], Worker],
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    id = await ask(hold)
    _settings(monkeypatch, worker, grace=0)
    async with worker.running():
        await started.wait()
    job = await look(id)
    assert (job.status, job.attempts, job.owner) == ("queued", 0, None)
    assert job.run_after <= utcnow() + timedelta(seconds=1)
    started.go.set()
    await another().drain()
    job = await look(id)
    assert (job.status, job.attempts, job.epoch) == ("completed", 1, 2)


async def test_stopping_lets_end_what_ends_soon(
    ask: Ask, look: Look, worker: Worker, started: Started
) -> None:
    id = await ask(hold)
    async with worker.running():
        await started.wait()
        asyncio.get_running_loop().call_later(0.1, started.go.set)
    assert (await look(id)).status == "completed"


def _settings(monkeypatch: pytest.MonkeyPatch, worker: Worker, **values: Any) -> None:
    monkeypatch.setattr(worker, "_settings", worker._settings.model_copy(update=values))


@pytest.mark.parametrize(
    ("stored", "status", "error"),
    [
        ({}, "queued", queue.WORKER_DIED),
        ({"attempts": 5}, "failed", queue.WORKER_DIED),
        ({"cancel_requested_at": utcnow()}, "cancelled", None),
    ],
)
async def test_the_jobs_of_the_dead(
    app: Ferrule, ask: Ask, look: Look, stored: dict[str, Any], status: str, error: str | None
) -> None:
    id = await ask(once_more)
    values = {"status": "running", "attempts": 1, "epoch": 1, "owner": "dead"}
    values["lease_until"] = utcnow() + timedelta(seconds=60)
    await change(app, id, **values | stored)
    async with app.kit[Database].write() as session:
        assert await queue.reap(session) == []
    await change(app, id, lease_until=utcnow() - timedelta(seconds=1))
    async with app.kit[Database].write() as session:
        assert await queue.reap(session) == [(id, "once_more", status)]
    job = await look(id)
    assert (job.status, job.error, job.owner) == (status, error, None)
    assert (job.finished_at is None) == (status == "queued")


async def test_a_worker_takes_over_from_a_dead_one(
    app: Ferrule, ask: Ask, look: Look, worker: Worker
) -> None:
    id = await ask(once_more)
    past = utcnow() - timedelta(seconds=1)
    await change(app, id, status="running", attempts=1, epoch=1, owner="dead", lease_until=past)
    async with worker.running():
        await until(lambda: _is(look, id, "completed"), 3)
    job = await look(id)
    assert (job.attempts, job.epoch) == (2, 2)


async def _is(look: Look, id: UUID, status: str) -> bool:
    return (await look(id)).status == status


async def test_a_heartbeat_keeps_the_lease(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, started: Started, monkeypatch: Any
) -> None:
    _settings(monkeypatch, worker, lease=0.4)
    worker._lease = 0.4
    id = await ask(hold)
    async with worker.running():
        await started.wait()
        first = (await look(id)).lease_until
        assert first is not None

        async def renewed() -> bool:
            lease = (await look(id)).lease_until
            return lease is not None and lease > first

        await until(renewed, 3)
        started.go.set()
        await until(lambda: _idle(worker))


async def test_a_worker_that_cannot_renew_lets_go(
    app: Ferrule, ask: Ask, worker: Worker, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    if app.kit[Database].embedded:
        pytest.skip("nobody else could have its jobs")

    async def unavailable(*arguments: Any) -> None:
        raise Unavailable

    await ask(hold)
    async with worker.running():
        await started.wait()
        _settings(monkeypatch, worker, lease=0.5)
        monkeypatch.setattr(queue, "renew", unavailable)
        await until(lambda: _idle(worker), 5)


async def test_a_hint_spares_the_wait(
    ask: Ask, worker: Worker, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    _settings(monkeypatch, worker, poll=30)
    async with worker.running():
        await asyncio.sleep(0.1)
        await ask(hold)
        await started.wait()
        started.go.set()


async def test_without_a_hint_it_is_found(
    ask: Ask, worker: Worker, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ferrule.jobs.hint import Hint

    async def silent(self: Hint) -> None: ...

    async with worker.running():
        monkeypatch.setattr(Hint, "give", silent)
        await ask(hold)
        await started.wait()
        started.go.set()
        monkeypatch.undo()


async def test_never_more_than_the_cap(
    app: Ferrule, ask: Ask, another: Callable[[], Worker], started: Started
) -> None:
    for _ in range(12):
        await ask(capped, concurrency_key="ann")
    await ask(capped, concurrency_key="bob")
    workers = [another() for _ in range(10)]
    for _ in range(3):
        await asyncio.gather(*(each._claim() for each in workers))
    async with app.kit[Database].read() as session:
        running = select(Job.concurrency_key, func.count()).where(Job.status == "running")
        rows = await session.execute(running.group_by(Job.concurrency_key))
        assert dict(iter(rows)) == {"capped/ann": 2, "capped/bob": 1}
    recording = [asyncio.create_task(each._recorder.run()) for each in workers]
    await asyncio.sleep(0)
    started.go.set()
    await asyncio.gather(*(a.task for w in workers for a in list(w._attempts.values())))
    for each in recording:
        each.cancel()
    await asyncio.gather(*recording, return_exceptions=True)
    await asyncio.gather(*(each.close() for each in workers))
    assert await another().drain() == 10


async def test_two_workers_never_claim_the_same(
    app: Ferrule, ask: Ask, another: Callable[[], Worker], look: Look
) -> None:
    ids = [await ask(once_more) for _ in range(40)]
    await asyncio.gather(*(another().drain() for _ in range(5)))
    jobs = [await look(id) for id in ids]
    assert {(job.status, job.attempts, job.epoch) for job in jobs} == {("completed", 2, 2)}


async def test_old_jobs_are_removed(app: Ferrule, ask: Ask, look: Look, worker: Worker) -> None:
    old, new, failed = await ask(once_more), await ask(once_more), await ask(give_up)
    await worker.drain()
    for id in (old, failed):
        await change(app, id, finished_at=utcnow() - timedelta(days=8))
    await worker._tidy()
    async with app.kit[Database].read() as session:
        assert set((await session.execute(select(Job.id))).scalars()) == {new, failed}
    await change(app, failed, finished_at=utcnow() - timedelta(days=31))
    await worker._tidy()
    async with app.kit[Database].read() as session:
        assert set((await session.execute(select(Job.id))).scalars()) == {new}


async def test_a_job_of_a_newer_version_is_left_alone(
    app: Ferrule, ask: Ask, look: Look, worker: Worker
) -> None:
    unknown, known = await ask(once_more, priority=9), await ask(once_more)
    await change(app, unknown, kind="from_tomorrow")
    await worker.drain()
    assert (await look(known)).status == "completed"
    assert (await look(unknown)).status == "queued"


async def test_data_that_does_not_fit_any_more_is_an_attempt(
    app: Ferrule, ask: Ask, look: Look, worker: Worker
) -> None:
    id = await ask(blocking, 0.0)
    await change(app, id, payload={"not": "a number"}, max_attempts=1)
    await worker.drain()
    job = await look(id)
    assert (job.status, job.error) == ("failed", "ValidationError")


async def test_its_lines_name_the_job_and_the_request(
    ask: Ask, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    from ferrule.observability import logs
    from ferrule.observability.rendering import request_id

    logs.configure("info", "json")
    token = request_id.set("request-7")
    id = await ask(give_up)
    request_id.reset(token)
    await worker.drain()
    logging.getLogger().handlers[0].flush()
    line = next(each for each in capsys.readouterr().err.splitlines() if "job failed" in each)
    assert f'"job_id":"{id}"' in line.replace('": "', '":"')
    assert '"request_id":"request-7"' in line.replace('": "', '":"')
    assert '"job":"give_up"' in line.replace('": "', '":"')


async def test_text_that_no_database_takes_is_stored_without_it(
    ask: Ask, look: Look, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def strange(run: Run) -> None:
        run.progress(0.5, "half\x00 of \ud800it")
        raise JobFailed("no\x00\ud800" + "x" * 5000)

    monkeypatch.setattr(give_up, "function", strange)
    id = await ask(give_up)
    await worker.drain()
    job = await look(id)
    assert (job.status, job.note) == ("failed", "half of ?it")
    assert job.error is not None
    assert job.error.startswith("no?xxx")
    assert len(job.error) == 2000


async def test_an_outcome_that_cannot_be_stored_does_not_keep_the_others(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recorder.record

    async def record(session: WriteSession, outcomes: Any) -> None:
        if any(each.claimed.kind == "give_up" for each in outcomes):
            raise RuntimeError
        await recorded(session, outcomes)

    monkeypatch.setattr(recorder, "record", record)
    bad, good = await ask(give_up), await ask(once_more)
    await worker.drain()
    assert (await look(good)).status == "completed"
    assert (await look(bad)).status == "running"


async def test_a_function_that_ends_well_though_cancelled_has_ended_well(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def stubborn(run: Run) -> str:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "ended"
        return "slept"

    monkeypatch.setattr(give_up, "function", stubborn)
    id = await ask(give_up)
    async with worker.running():
        await begun.wait()
        async with app.kit[Database].write() as session:
            job = (await session.execute(select(Job).where(Job.id == id))).scalar_one()
            await requests.cancel(session, job)
        await until(lambda: _idle(worker), 2)
    job = await look(id)
    assert (job.status, job.result) == ("completed", "ended")


async def test_a_cap_that_was_added_or_taken_away_strands_nothing(
    ask: Ask, look: Look, worker: Worker, monkeypatch: pytest.MonkeyPatch, started: Started
) -> None:
    started.go.set()
    before, counted = await ask(once_more), await ask(capped)
    monkeypatch.setattr(once_more, "concurrency", 1)
    monkeypatch.setattr(capped, "concurrency", None)
    after, uncounted = await ask(once_more), await ask(capped)
    await worker.drain()
    for id in (before, counted, after, uncounted):
        assert (await look(id)).status == "completed"
    assert (await look(before)).concurrency_key == "once_more/"


async def test_a_job_that_was_just_claimed_is_not_let_go_with_the_others(
    ask: Ask, worker: Worker, started: Started
) -> None:
    await ask(hold)
    async with worker.running():
        await started.wait()
        (old,) = worker._attempts.values()
        old.renewed -= 1000
        await ask(hold)
        await started.wait(2)
        worker._let_go()
        assert sorted(str(each.why) for each in worker._attempts.values()) == ["None", "lost"]
        started.go.set()


async def test_a_job_that_comes_back_before_its_old_attempt_ended(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, started: Started
) -> None:
    id = await ask(hold)
    async with worker.running():
        await started.wait()
        (old,) = worker._attempts.values()
        values: dict[str, Any] = {"status": "queued", "owner": None, "lease_until": None}
        await change(app, id, **values)
        await started.wait(2)
        await until(lambda: _done(old.task), 3)
        assert old.why == "lost"
        assert worker.busy == 1
        started.go.set()
        await until(lambda: _idle(worker))
    job = await look(id)
    assert (job.status, job.epoch) == ("completed", 2)


async def _done(task: asyncio.Task[None]) -> bool:
    return task.done()


async def test_keys_whose_jobs_wait_do_not_hide_others(
    ask: Ask, look: Look, worker: Worker, started: Started
) -> None:
    started.go.set()
    for number in range(queue.KEYS_AT_ONCE + 20):
        await ask(capped, concurrency_key=f"a{number:03}", delay=3600)
    id = await ask(capped, concurrency_key="z")
    async with worker.running():
        await until(lambda: _is(look, id, "completed"), 5)


async def test_no_key_takes_all_places_while_another_waits(
    app: Ferrule,
    ask: Ask,
    another: Callable[[], Worker],
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capped, "concurrency", 100)
    for _ in range(20):
        await ask(capped, concurrency_key="flood")
    await ask(capped, concurrency_key="polite")
    await ask(capped, concurrency_key="urgent", priority=9)
    worker = another()
    recording = asyncio.create_task(worker._recorder.run())
    assert await worker._claim() == 8
    first, *_ = worker._attempts.values()
    assert first.claimed.priority == 9
    await started.wait(8)
    async with app.kit[Database].read() as session:
        running = select(Job.concurrency_key).where(Job.status == "running")
        keys = (await session.execute(running)).scalars().all()
    assert Counter(keys) == {"capped/flood": 6, "capped/polite": 1, "capped/urgent": 1}
    started.go.set()
    await until(lambda: _idle(worker))
    recording.cancel()
    await worker.close()


@pytest.mark.parametrize("after", [float("inf"), 1e13, -5, timedelta(days=9999)])
async def test_a_wait_that_no_calendar_has(
    ask: Ask, look: Look, worker: Worker, monkeypatch: pytest.MonkeyPatch, after: Any
) -> None:
    async def later(run: Run) -> None:
        raise Retry("later", after=after)

    monkeypatch.setattr(give_up, "function", later)
    id = await ask(give_up)
    async with worker.running():
        await until(lambda: _again(look, id), 5)
    job = await look(id)
    assert job.status == "queued"
    assert job.run_after < utcnow() + timedelta(days=367)


async def _again(look: Look, id: UUID) -> bool:
    return (await look(id)).error == "later"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseException("odd")])
@pytest.mark.parametrize("declared", [give_up, blocking], ids=lambda each: each.name)
async def test_a_job_does_not_end_the_process(
    ask: Ask,
    look: Look,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    declared: Any,
) -> None:
    async def leave(run: Run) -> None:
        raise error

    def leave_thread(run: Run, seconds: float) -> None:
        raise error

    monkeypatch.setattr(declared, "function", leave_thread if declared is blocking else leave)
    monkeypatch.setattr(declared, "max_attempts", 1)
    id = await (ask(blocking, 0.0) if declared is blocking else ask(declared))
    assert await worker.drain() == 1
    job = await look(id)
    assert (job.status, job.error) == ("failed", type(error).__name__)


async def test_an_error_that_keeps_a_requests_writes_keeps_none_of_a_job(
    app: Ferrule,
    ask: Ask,
    look: Look,
    worker: Worker,
    owner: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Kept(Conflict):
        keeps_writes = True

    async def refuse(run: Run, name: str) -> None:
        await _prebuilt(run.session, owner)
        raise Kept("No.")

    monkeypatch.setattr(write_item, "function", refuse)
    id = await ask(write_item, "tea", actor=owner)
    await worker.drain()
    job = await look(id)
    assert (job.status, job.attempts, job.error) == ("failed", 5, "No.")
    assert await items(app) == 0


async def test_who_swallows_that_the_claim_is_over_writes_nothing(
    app: Ferrule,
    ask: Ask,
    look: Look,
    worker: Worker,
    owner: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stubborn(run: Run, name: str) -> None:
        await change(app, run.id, epoch=7, owner="another")
        for _ in range(3):
            await asyncio.gather(run.session.execute(text("SELECT 1")), return_exceptions=True)
            await asyncio.gather(_prebuilt(run.session, owner), return_exceptions=True)
            await asyncio.gather(run.session.flush(), return_exceptions=True)

    monkeypatch.setattr(write_item, "function", stubborn)
    id = await ask(write_item, "tea", actor=owner)
    await asyncio.wait_for(worker.drain(), 20)
    assert await items(app) == 0
    job = await look(id)
    assert (job.status, job.epoch, job.owner) == ("running", 7, "another")


async def test_it_knows_that_it_was_begun_before_though_handed_back(
    ask: Ask,
    worker: Worker,
    another: Callable[[], Worker],
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await ask(hold)
    _settings(monkeypatch, worker, grace=0)
    async with worker.running():
        await started.wait()
    started.go.set()
    await another().drain()
    assert [(run.attempt, run.again) for run in started.runs] == [(1, False), (1, True)]


async def test_what_swallows_its_end_does_not_keep_the_worker(
    ask: Ask, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def stubborn(run: Run) -> None:
        begun.set()
        for _ in range(20):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    monkeypatch.setattr(give_up, "function", stubborn)
    monkeypatch.setattr("ferrule.jobs.worker.SETTLE", 0.2)
    await ask(give_up)
    _settings(monkeypatch, worker, grace=0)
    async with asyncio.timeout(5):
        async with worker.running():
            await begun.wait()
    for attempt in list(worker._attempts.values()):
        while not attempt.task.done():
            attempt.task.cancel()
            await asyncio.sleep(0)


async def test_a_cancelled_job_may_tidy_up(
    app: Ferrule, ask: Ask, look: Look, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, tidied = asyncio.Event(), asyncio.Event()

    async def tidy(run: Run) -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(1)
            tidied.set()

    monkeypatch.setattr(give_up, "function", tidy)
    id = await ask(give_up)
    async with worker.running():
        await begun.wait()
        async with app.kit[Database].write() as session:
            job = (await session.execute(select(Job).where(Job.id == id))).scalar_one()
            await requests.cancel(session, job)
        await until(lambda: _idle(worker), 5)
    assert tidied.is_set()
    assert (await look(id)).status == "cancelled"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_a_worker_that_stands_still_loses_its_locks(app: Ferrule, worker: Worker) -> None:
    """As it claims or records: within the transactions of a job the fence sees to it."""
    own: Any = worker._own
    async with own.write() as session:
        shown = await session.scalar(text("SHOW idle_in_transaction_session_timeout"))
    assert shown == f"{app.settings.jobs.lease:g}s"
