"""Who may notify whom, and what people do with what came."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient
from sqlalchemy import delete, func, select

from ferrule import Actor, Ferrule, Forbidden, NotFound
from ferrule.db import Database
from ferrule.jobs.models import Job
from ferrule.modules.auth import User
from ferrule.modules.notifications import Notification, Notify, deliver, notify
from ferrule.modules.notifications.models import NotificationPreferences
from ferrule.modules.notifications.service import mark_all_read
from ferrule.streams.models import Stream
from ferrule.testing import Actors
from tests.modules.notifications.conftest import INBOX, JOBS, NOTIFY, Send

PREFERENCES = f"{INBOX}/preferences"


async def count(app: Ferrule, model: type[Any]) -> int:
    async with app.kit[Database].read() as session:
        number: int = await session.scalar(select(func.count()).select_from(model))
        return number


async def unread(client: AsyncClient) -> int:
    number: int = (await client.get(f"{INBOX}/unread")).json()["unread"]
    return number


async def test_who_is_deleted_meanwhile_is_no_deadlock(actors: Actors, app: Ferrule) -> None:
    root, ann = await actors("root", admin=True), await actors("ann")
    told = Notify(user_id=UUID(ann.user["id"]), title="Hello", body="You there")
    async with app.kit[Database].write() as session:
        await deliver(session, Actor(id=UUID(root.user["id"])), told)
    async with app.kit[Database].write() as session:
        await deliver(session, Actor(id=UUID(root.user["id"])), told)
        deleting = asyncio.create_task(root.delete(f"/api/v1/users/{ann.user['id']}"))
        await asyncio.sleep(0.3)
        assert not deleting.done()
    assert (await deleting).status_code == 204
    assert await count(app, Notification) == 0
    async with app.kit[Database].read() as session:
        kinds = (await session.execute(select(Stream.kind))).scalars().all()
    assert "notifications" not in kinds


async def test_a_notification_lives(actors: Actors) -> None:
    root, ann = await actors("root", admin=True), await actors("ann")
    body = {"user_id": ann.user["id"], "title": "Hello", "body": "<b>You</b>\nthere"}
    told = await root.post(NOTIFY, json=body)
    assert told.status_code == 202
    assert "Location" not in told.headers
    address = f"{INBOX}/{told.json()['notification_id']}"
    assert told.json() == {"notification_id": address.rpartition("/")[2], "job_id": None}

    (listed,) = (await ann.get(INBOX)).json()["items"]
    got = await ann.get(address)
    assert got.headers["ETag"] == '"1"'
    assert got.json() == listed
    assert listed == {
        **body,
        "id": told.json()["notification_id"],
        "read_at": None,
        "actor_id": root.user["id"],
        "revision": 1,
        "created_at": listed["created_at"],
        "updated_at": listed["created_at"],
    }

    assert await unread(ann) == 1
    read = await ann.post(f"{address}/read")
    assert (read.status_code, read.headers["ETag"]) == (200, '"2"')
    assert read.json()["read_at"].endswith("Z")
    assert (await ann.get(address)).json() == read.json()
    assert await unread(ann) == 0

    assert (await ann.delete(address)).status_code == 204
    for answer in (
        await ann.get(address),
        await ann.delete(address),
        await ann.post(f"{address}/read"),
    ):
        assert answer.status_code == 404
    assert (await ann.get(INBOX)).json()["items"] == []


async def test_nobody_who_is_not_signed_in_passes(client: AsyncClient) -> None:
    for method, path in (
        ("POST", NOTIFY), ("GET", INBOX), ("GET", f"{INBOX}/unread"), ("POST", f"{INBOX}/read"),
        ("GET", PREFERENCES), ("PATCH", PREFERENCES), ("GET", f"{INBOX}/{uuid4()}"),
        ("DELETE", f"{INBOX}/{uuid4()}"), ("POST", f"{INBOX}/{uuid4()}/read"),
    ):  # fmt: skip
        assert (await client.request(method, path)).status_code == 401, path


async def test_who_notifies_whom(actors: Actors, send: Send) -> None:
    root, ann, bob = await actors("root", admin=True), await actors("ann"), await actors("bob")
    await send(root, bob)
    await send(root, root)
    await send(ann, ann)
    # Whether there is somebody is not to be seen by it.
    refused = []
    for id in (bob.user["id"], str(uuid4())):
        body = {"user_id": id, "title": "Hello", "body": "", "email": True}
        answer = await ann.post(NOTIFY, json=body, headers={"X-Request-ID": "the-same-one"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        refused.append((answer.content, answer.headers))
    assert refused[0] == refused[1]
    body = {"user_id": str(uuid4()), "title": "Hello", "body": ""}
    nobody = await root.post(NOTIFY, json=body)
    assert (nobody.status_code, nobody.json()["code"]) == (404, "not_found")
    assert [await unread(each) for each in (root, ann, bob)] == [1, 1, 1]


async def test_other_modules_notify_by_the_service(app: Ferrule, actors: Actors) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    actor = Actor(kind="user", id=UUID(ann.user["id"]))
    to_bob = Notify(user_id=UUID(bob.user["id"]), title="Hello", body="", email=True)
    async with app.kit[Database].write() as session:
        with pytest.raises(Forbidden):
            await notify(session, actor, to_bob)
        notified = await deliver(session, actor, to_bob)
        with pytest.raises(NotFound):
            await deliver(session, actor, to_bob.model_copy(update={"user_id": uuid4()}))
    address = f"{INBOX}/{notified.notification_id}"
    assert (await bob.get(address)).json()["actor_id"] == ann.user["id"]
    # Who asked looks at the job, but not at what came of it elsewhere.
    assert (await ann.get(f"{JOBS}/{notified.job_id}")).status_code == 200
    assert (await bob.get(f"{JOBS}/{notified.job_id}")).status_code == 404
    assert (await ann.get(address)).status_code == 404


async def test_what_is_rolled_back_leaves_neither_notification_nor_job(
    app: Ferrule, actors: Actors, send: Send
) -> None:
    ann = await actors("ann")
    data = Notify(user_id=UUID(ann.user["id"]), title="Hello", body="", email=True)
    with pytest.raises(RuntimeError):
        async with app.kit[Database].write() as session:
            await notify(session, Actor(kind="user", id=data.user_id), data)
            raise RuntimeError
    assert (await count(app, Notification), await count(app, Job)) == (0, 0)
    await send(ann, ann, email=True)
    assert (await count(app, Notification), await count(app, Job)) == (1, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", " \u3000"),
        ("title", "a" * 201),
        ("title", "one\ntwo"),
        ("title", "one\r\nBcc: eve@example.com"),
        ("title", "one\u2028two"),
        ("title", "\x00"),
        ("title", None),
        ("body", "a" * 10_001),
        ("body", "\x00"),
        ("body", "\x1b[31m"),
        ("body", None),
        ("email", "true"),
        ("email", None),
        ("user_id", "me"),
        ("actor_id", None),
        ("read_at", None),
    ],
)
async def test_bounds(app: Ferrule, actors: Actors, field: str, value: Any) -> None:
    ann = await actors("ann")
    body = {"user_id": ann.user["id"], "title": "Hello", "body": "", "email": True, field: value}
    answer = await ann.post(NOTIFY, json=body)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
    assert (await count(app, Notification), await count(app, Job)) == (0, 0)


async def test_the_largest_and_the_oddest_come_as_they_were_sent(
    actors: Actors, send: Send
) -> None:
    ann = await actors("ann")
    for title, body in (
        ("\U0001f426" * 200, "\U0001f426" * 10_000),
        ("{{ title }} {% raw %}", "\t\r\n.\r\n\u202e'; DROP TABLE users --"),
    ):
        told = await send(ann, ann, title=title, body=body)
        got = (await ann.get(f"{INBOX}/{told['notification_id']}")).json()
        assert (got["title"], got["body"]) == (title, body)


async def test_the_newest_come_first_and_pages_follow_each_other(
    actors: Actors, send: Send
) -> None:
    root, ann, bob = await actors("root", admin=True), await actors("ann"), await actors("bob")
    for number in range(7):
        await send(root, ann, title=f"{number}")
        await send(root, bob, title="for bob")
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = (await ann.get(INBOX, params=query)).json()
        seen += [each["title"] for each in page["items"]]
        if page["pagination"]["next"] is None:
            break
        query["cursor"] = page["pagination"]["next"]
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]
    page = (await ann.get(INBOX, params={"limit": 3, "page": 3})).json()
    assert [each["title"] for each in page["items"]] == ["0"]
    assert page["pagination"]["total"] == 7
    oldest = (await ann.get(INBOX, params={"limit": 1, "sort": "created_at"})).json()
    assert oldest["items"][0]["title"] == "0"
    for refused in (
        {"limit": 0},
        {"limit": 101},
        {"unread": "x"},
        {"cursor": "x"},
        {"sort": "body"},
    ):
        assert (await ann.get(INBOX, params=refused)).status_code == 422, refused


async def test_only_those_that_were_read_or_not(actors: Actors, send: Send) -> None:
    ann = await actors("ann")
    ids = [(await send(ann, ann))["notification_id"] for _ in range(4)]
    await ann.post(f"{INBOX}/{ids[1]}/read")
    for asked, expected in ((True, [ids[3], ids[2], ids[0]]), (False, [ids[1]])):
        page = (await ann.get(INBOX, params={"unread": asked, "limit": 2})).json()
        assert page["pagination"]["total"] == len(expected)
        assert [each["id"] for each in page["items"]] == expected[:2]
        following = page["pagination"]["next"]
        if len(expected) > 2:
            rest = await ann.get(INBOX, params={"unread": asked, "limit": 2, "cursor": following})
            assert [each["id"] for each in rest.json()["items"]] == expected[2:]
        else:
            assert following is None


async def test_z1_what_is_not_yours_does_not_exist(actors: Actors, send: Send) -> None:
    ann, bob, root = await actors("ann"), await actors("bob"), await actors("root", admin=True)
    address = f"{INBOX}/{(await send(ann, ann))['notification_id']}"
    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/read")):
        for other in (bob, root):
            headers = {"X-Request-ID": "the-same-one"}
            theirs = await other.request(method, address + suffix, headers=headers)
            missing = f"{INBOX}/{uuid4()}{suffix}"
            none = await other.request(method, missing, headers=headers)
            assert theirs.status_code == none.status_code == 404
            assert theirs.content == none.content
    assert (await bob.get(INBOX)).json()["items"] == []
    assert (await bob.post(f"{INBOX}/read")).json() == {"unread": 0}
    assert (await ann.get(address)).json()["read_at"] is None
    assert await unread(ann) == 1


async def test_the_time_of_the_first_reading_stays(actors: Actors, send: Send) -> None:
    ann = await actors("ann")
    address = f"{INBOX}/{(await send(ann, ann))['notification_id']}"
    answers = await asyncio.gather(*(ann.post(f"{address}/read") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    first = answers[0].json()
    assert (await ann.post(f"{INBOX}/read")).json() == {"unread": 0}
    assert (await ann.get(address)).json() == first
    assert first["revision"] == 2


async def test_all_are_read_at_once_however_many_ask(actors: Actors, send: Send) -> None:
    root, ann, bob = await actors("root", admin=True), await actors("ann"), await actors("bob")
    ids = [(await send(root, ann))["notification_id"] for _ in range(20)]
    await send(root, bob)
    answers = await asyncio.gather(
        *(ann.post(f"{INBOX}/read") for _ in range(10)),
        *(ann.post(f"{INBOX}/{id}/read") for id in reversed(ids)),
    )
    assert {answer.status_code for answer in answers} == {200}
    page = (await ann.get(INBOX)).json()
    assert [each["revision"] for each in page["items"]] == [2] * 20
    assert (await unread(ann), await unread(bob)) == (0, 1)


async def test_what_comes_after_all_were_read_is_told_after_it(
    app: Ferrule, actors: Actors, send: Send
) -> None:
    root, ann = await actors("root", admin=True), await actors("ann")
    await send(root, ann)
    async with app.kit[Database].write() as session:
        left = await mark_all_read(session, Actor(id=UUID(ann.user["id"])))
        assert left.unread == 0
        sending = asyncio.create_task(send(root, ann))
        await asyncio.sleep(0.3)
    await sending
    assert await unread(ann) == 1
    events = (await ann.get("/api/v1/streams/notifications")).json()["items"]
    assert [event["type"] for event in events] == ["created", "read", "created"]


async def test_preferences_are_the_defaults_until_somebody_says_so(actors: Actors) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    assert (await ann.get(PREFERENCES)).json() == {"email": True}
    for value in (False, True, False):
        changed = await ann.patch(PREFERENCES, json={"email": value})
        assert (changed.status_code, changed.json()) == (200, {"email": value})
        assert (await ann.get(PREFERENCES)).json() == {"email": value}
    assert (await ann.patch(PREFERENCES, json={})).json() == {"email": False}
    assert (await bob.get(PREFERENCES)).json() == {"email": True}
    for refused in ({"email": None}, {"email": "no"}, {"user_id": bob.user["id"]}, []):
        assert (await ann.patch(PREFERENCES, json=refused)).status_code == 422


async def test_preferences_that_are_set_at_the_same_time(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    answers = await asyncio.gather(
        *(ann.patch(PREFERENCES, json={"email": number % 2 == 0}) for number in range(20))
    )
    assert [answer.status_code for answer in answers] == [200] * 20
    assert [answer.json()["email"] for answer in answers] == [True, False] * 10
    assert await count(app, NotificationPreferences) == 1


async def test_they_go_with_their_user(app: Ferrule, actors: Actors, send: Send) -> None:
    ann = await actors("ann")
    await send(ann, ann)
    await ann.patch(PREFERENCES, json={"email": False})
    async with app.kit[Database].write() as session:
        await session.execute(delete(User).where(User.id == UUID(ann.user["id"])))
    for model in (Notification, NotificationPreferences):
        assert await count(app, model) == 0
