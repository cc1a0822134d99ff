"""The mail of a notification: sent once, if it is wanted when its job runs."""

from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from ferrule import Ferrule, Settings
from ferrule.db import Database, utcnow
from ferrule.jobs.models import Job
from ferrule.jobs.worker import Worker
from ferrule.mail import Mailer
from ferrule.mail.mailers import SmtpMailer
from ferrule.modules.auth import User
from ferrule.testing import ActorClient, Actors
from tests.mail.conftest import Post
from tests.modules.notifications.conftest import INBOX, JOBS, NOTIFY, Send


async def job_of(client: ActorClient, told: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = (await client.get(f"{JOBS}/{told['job_id']}")).json()
    return job


async def make_due(app: Ferrule, told: dict[str, Any]) -> None:
    """Let the next attempt begin now."""
    async with app.kit[Database].write() as session:
        this = Job.id == UUID(told["job_id"])
        await session.execute(update(Job).where(this).values(run_after=utcnow()))


async def test_a_mail_arrives_once(actors: Actors, worker: Worker, mails: Post) -> None:
    root, ann = await actors("root", admin=True), await actors("ann")
    body = {"user_id": ann.user["id"], "title": "Grüße, Ann", "body": "Two\nlines", "email": True}
    told = await root.post(NOTIFY, json=body)
    assert told.headers["Location"] == f"{JOBS}/{told.json()['job_id']}"
    queued = (await root.get(told.headers["Location"])).json()
    assert (queued["kind"], queued["status"]) == ("mail_notification", "queued")
    assert queued["actor_id"] == root.user["id"]
    assert mails.mails == []

    assert await worker.drain() == 1
    assert await worker.drain() == 0
    (mail,), (envelope,) = mails.mails, mails.envelopes
    assert envelope.rcpt_tos == ["ann@example.com"]
    assert mail["Subject"] == "Grüße, Ann"
    digest = sha256(f"notification/{told.json()['notification_id']}".encode()).hexdigest()[:32]
    assert mail["Message-ID"] == f"<{digest}@shop.test>"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == ["Two", "lines"]
    assert "Two\nlines" in html.get_content().replace("\r\n", "\n")
    job = await job_of(root, told.json())
    assert (job["status"], job["result"]) == ("completed", {"sent": True, "reason": None})
    assert (await ann.get(INBOX)).json()["pagination"]["total"] == 1


async def test_nothing_is_mailed_that_was_not_asked_for(
    actors: Actors, worker: Worker, mails: Post, send: Send
) -> None:
    ann = await actors("ann")
    for fields in ({}, {"email": False}):
        assert (await send(ann, ann, **fields))["job_id"] is None
    assert await worker.drain() == 0
    assert mails.mails == []


async def test_what_counts_is_how_it_is_when_the_job_runs(
    app: Ferrule, actors: Actors, worker: Worker, mails: Post, send: Send
) -> None:
    root, ann = await actors("root", admin=True), await actors("ann")
    bob, carl = await actors("bob"), await actors("carl")
    preferences = f"{INBOX}/preferences"
    await ann.patch(preferences, json={"email": False})
    wanted_later = await send(root, ann, email=True)
    await ann.patch(preferences, json={"email": True})
    assert await worker.drain() == 1
    assert (await job_of(root, wanted_later))["result"]["sent"] is True

    skipped = {"not wanted": ann, "disabled": bob, "gone": carl}
    told = {reason: await send(root, client, email=True) for reason, client in skipped.items()}
    deleted = await send(root, ann, email=True)
    await ann.patch(preferences, json={"email": False})
    await ann.delete(f"{INBOX}/{deleted['notification_id']}")
    for client, change in ((bob, ("PATCH", {"disabled": True})), (carl, ("DELETE", None))):
        address = f"/api/v1/users/{client.user['id']}"
        assert (await root.request(change[0], address, json=change[1])).is_success
    assert await worker.drain() == 4
    for reason, each in (*told.items(), ("gone", deleted)):
        job = await job_of(root, each)
        assert (job["status"], job["result"]) == ("completed", {"sent": False, "reason": reason})
    assert len(mails.mails) == 1


async def test_a_refused_address_fails_at_once(
    actors: Actors, worker: Worker, mails: Post, send: Send
) -> None:
    ann = await actors("ann")
    mails.to_recipient = "550 5.1.1 No such user"
    told = await send(ann, ann, email=True)
    assert await worker.drain() == 1
    job = await job_of(ann, told)
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["error"] == "550 5.1.1 No such user"


async def test_a_server_that_has_no_time_is_asked_again(
    app: Ferrule, actors: Actors, worker: Worker, mails: Post, send: Send
) -> None:
    ann = await actors("ann")
    mails.to_data = "451 4.7.1 Try again later"
    told = await send(ann, ann, email=True)
    assert await worker.drain() == 1
    job = await job_of(ann, told)
    assert (job["status"], job["attempts"], job["error"]) == ("queued", 1, "MailFailed")
    assert job["run_after"] > utcnow().isoformat()

    mails.to_data = "250 OK"
    await make_due(app, told)
    assert await worker.drain() == 1
    job = await job_of(ann, told)
    assert (job["status"], job["attempts"], job["error"]) == ("completed", 2, None)
    assert len(mails.mails) == 1


async def test_a_server_that_is_not_there_is_asked_again(
    app: Ferrule, actors: Actors, worker: Worker, mails: Post, send: Send
) -> None:
    ann = await actors("ann")
    app.kit.provide(SmtpMailer(mails.settings(port=1)), kind=Mailer)
    told = await send(ann, ann, email=True)
    await worker.drain()
    assert (await job_of(ann, told))["status"] == "queued"


async def test_an_attempt_that_nobody_recorded_sends_the_same_mail(
    app: Ferrule, actors: Actors, worker: Worker, mails: Post, send: Send
) -> None:
    ann = await actors("ann")
    told = await send(ann, ann, email=True)
    await worker.drain()
    async with app.kit[Database].write() as session:
        this = Job.id == UUID(told["job_id"])
        await session.execute(update(Job).where(this).values(status="queued"))
    await worker.drain()
    first, second = mails.mails
    assert first["Message-ID"] == second["Message-ID"]


async def test_html_is_escaped_and_templates_are_not_run(
    actors: Actors, worker: Worker, mails: Post, send: Send
) -> None:
    ann = await actors("ann")
    title, body = "<script>1</script> {{ 7 * 7 }}", "<img src=x onerror=1> & {{ 7 * 7 }}\n.\nQUIT"
    await send(ann, ann, title=title, body=body, email=True)
    await worker.drain()
    (mail,) = mails.mails
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert mail["Subject"] == title
    assert text.get_content().splitlines() == body.splitlines()
    shown = html.get_content()
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "&lt;img src=x onerror=1&gt; &amp; {{ 7 * 7 }}" in shown


async def test_a_body_is_no_header(actors: Actors, worker: Worker, mails: Post, send: Send) -> None:
    ann = await actors("ann")
    await send(ann, ann, title="Subject: Bcc: eve@example.com", email=True,
               body="Bcc: eve@example.com\r\n\r\nSubject: other")  # fmt: skip
    await worker.drain()
    (mail,), (envelope,) = mails.mails, mails.envelopes
    assert envelope.rcpt_tos == ["ann@example.com"]
    assert (mail["Bcc"], mail["Subject"]) == (None, "Subject: Bcc: eve@example.com")


@pytest.mark.parametrize(("environment", "sent"), [("development", True), ("production", False)])
async def test_in_production_only_verified_addresses_get_mail(
    app: Ferrule,
    actors: Actors,
    worker: Worker,
    mails: Post,
    send: Send,
    environment: str,
    sent: bool,
) -> None:
    """Anybody may have registered the address where registration is open."""
    root, ann = await actors("root", admin=True), await actors("ann")
    async with app.kit[Database].write() as session:
        await session.execute(update(User).values(verified=False))
    told = await send(root, ann, email=True)
    strict = app.settings.model_copy(update={"environment": environment})
    app.kit.provide(strict, kind=Settings)
    await worker.drain()
    assert len(mails.mails) == sent
    assert (await job_of(root, told))["result"]["sent"] is sent
