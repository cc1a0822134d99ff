"""The routes of jobs: who sees what, and what can be asked of a job in which state."""

from typing import Any
from uuid import UUID

import pytest

from ferrule import Actor, Ferrule
from ferrule.db import Database, uuid7
from ferrule.jobs.worker import Worker
from tests.jobs.conftest import Ask, Look, Order, Started, fail, give_up, greet, hold, until

JOBS = "/api/v1/jobs"


@pytest.fixture
async def ann(actors: Any) -> Any:
    return await actors("ann")


@pytest.fixture
def as_ann(ann: Any) -> Actor:
    return Actor(kind="user", id=UUID(ann.user["id"]))


async def test_who_asked_sees_it_and_what_it_was_given_stays_inside(
    ann: Any, as_ann: Actor, actors: Any, client: Any, ask: Ask, worker: Worker
) -> None:
    id = await ask(greet, Order(name="a private name"), actor=as_ann)
    answer = await ann.get(f"{JOBS}/{id}")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["kind"]) == ("queued", "greet")
    assert "private" not in answer.text
    assert (await (await actors("bob")).get(f"{JOBS}/{id}")).status_code == 404
    assert (await client.get(f"{JOBS}/{id}")).status_code == 401
    root = await actors("root", admin=True)
    assert (await root.get(f"{JOBS}/{id}")).json()["actor_id"] == ann.user["id"]
    etag = answer.headers["ETag"]
    assert (await ann.get(f"{JOBS}/{id}", headers={"If-None-Match": etag})).status_code == 304
    await worker.drain()
    done = await ann.get(f"{JOBS}/{id}", headers={"If-None-Match": etag})
    assert (done.status_code, done.json()["status"]) == (200, "completed")


async def test_a_list_has_ones_own_and_for_administrators_all(
    ann: Any, as_ann: Actor, actors: Any, ask: Ask, worker: Worker
) -> None:
    mine = await ask(give_up, actor=as_ann)
    await ask(greet, Order(name="tea"))
    await worker.drain()
    listed = (await ann.get(JOBS)).json()
    assert [job["id"] for job in listed["items"]] == [str(mine)]
    root = await actors("root", admin=True)
    assert (await root.get(JOBS)).json()["pagination"]["total"] == 2
    failed = (await root.get(JOBS, params={"status": "failed", "kind": "give_up"})).json()
    assert [job["error"] for job in failed["items"]] == ["There is no such order."]


async def test_jobs_are_not_made_or_changed_by_clients(ann: Any, as_ann: Actor, ask: Ask) -> None:
    id = await ask(greet, Order(name="tea"), actor=as_ann)
    assert (await ann.post(JOBS, json={})).status_code == 405
    for method in ("PUT", "PATCH", "DELETE"):
        assert (await ann.request(method, f"{JOBS}/{id}", json={})).status_code == 405


async def test_cancelling(
    ann: Any, as_ann: Actor, actors: Any, ask: Ask, look: Look, worker: Worker, started: Started
) -> None:
    queued = await ask(hold, actor=as_ann)
    assert (await (await actors("bob")).post(f"{JOBS}/{queued}/cancel")).status_code == 404
    answer = await ann.post(f"{JOBS}/{queued}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert answer.json()["finished_at"] is not None
    again = await ann.post(f"{JOBS}/{queued}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert await worker.drain() == 0

    running = await ask(hold, actor=as_ann)
    async with worker.running():
        await started.wait()
        for _ in range(2):
            answer = await ann.post(f"{JOBS}/{running}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (202, "running")

        async def ended() -> bool:
            return (await look(running)).status == "cancelled"

        await until(ended, 1)
    assert (await ann.post(f"{JOBS}/{running}/cancel")).status_code == 409


async def test_a_failed_job_is_tried_again_as_a_new_one(
    ann: Any, as_ann: Actor, actors: Any, ask: Ask, look: Look, worker: Worker
) -> None:
    id = await ask(fail, actor=as_ann)
    assert (await ann.post(f"{JOBS}/{id}/retry")).status_code == 409
    await worker.drain()
    assert (await (await actors("bob")).post(f"{JOBS}/{id}/retry")).status_code == 404
    answer = await ann.post(f"{JOBS}/{id}/retry")
    assert answer.status_code == 202
    again = answer.json()["job_id"]
    assert answer.headers["Location"] == f"{JOBS}/{again}"
    assert again != str(id)
    assert (await ann.post(f"{JOBS}/{id}/retry")).json()["job_id"] == again
    assert (await look(id)).status == "failed"
    await worker.drain()
    assert (await ann.get(answer.headers["Location"])).json()["attempts"] == 3


async def test_a_finished_job_never_changes(
    app: Ferrule, ask: Ask, look: Look, worker: Worker
) -> None:
    """A worker that comes back late with another outcome changes nothing."""
    from ferrule.jobs.queue import Claimed, Outcome, record, record_progress

    id = await ask(give_up)
    await worker.drain()
    job = await look(id)
    claimed = Claimed(id, job.kind, None, job.epoch, 1, 5, None, None, job.run_after, 0)
    async with app.kit[Database].write() as session:
        await record(session, [Outcome(claimed, "completed", result=1)])
        await record_progress(session, [(claimed, 0.1, None)])
    after = await look(id)
    assert (after.status, after.revision, after.progress) == ("failed", job.revision, None)


async def test_unknown_jobs(ann: Any) -> None:
    for path in (f"{JOBS}/{uuid7()}", f"{JOBS}/nonsense"):
        assert (await ann.get(path)).status_code in (404, 422)
        assert (await ann.post(f"{path}/cancel")).status_code in (404, 422)
        assert (await ann.post(f"{path}/retry")).status_code in (404, 422)


async def test_metrics_tell_what_ended_and_what_waits(
    client: Any, ask: Ask, worker: Worker
) -> None:
    await ask(give_up)
    await worker.drain()
    await ask(hold)
    text = (await client.get("/metrics")).text
    assert 'job_attempts_total{kind="give_up",status="failed"} 1.0' in text
    assert 'job_attempt_duration_seconds_count{kind="give_up"} 1.0' in text
    assert 'jobs{kind="hold",status="queued"} 1.0' in text
    assert 'jobs{kind="give_up",status="failed"} 1.0' in text
    age = next(line for line in text.splitlines() if line.startswith("job_queue_age_seconds "))
    assert 0 <= float(age.split()[1]) < 30
