"""Rooms: their life, their lists, and the rooms of two."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient
from sqlalchemy import func, select

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.modules.rooms import Room, RoomMember, RoomsSettings
from ferrule.testing import ActorClient, Actors
from tests.modules.rooms.conftest import ROOMS, Make, Say, id_of, member


async def count(app: Ferrule, model: type[Any]) -> int:
    async with app.kit[Database].read() as session:
        number: int = await session.scalar(select(func.count()).select_from(model))
        return number


async def listed(who: ActorClient, **query: Any) -> list[dict[str, Any]]:
    answer = await who.get(ROOMS, params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def limited(app: Ferrule, **limits: int) -> None:
    app.kit.provide(RoomsSettings(**limits))


async def test_a_room_lives(actors: Actors) -> None:
    ann = await actors("ann")
    made = await ann.post(ROOMS, json={"name": "Kitchen", "topic": "What to cook"})
    assert made.status_code == 201
    room = made.json()
    assert made.headers["Location"] == f"{ROOMS}/{room['id']}"
    assert made.headers["ETag"] == '"1"'
    assert room == {
        "id": room["id"],
        "name": "Kitchen",
        "topic": "What to cook",
        "kind": "room",
        "private": True,
        "members": 1,
        "last_seq": 0,
        "last_message_at": None,
        "role": "owner",
        "peer_id": None,
        "peer_name": None,
        "read_seq": 0,
        "unread": 0,
        "revision": 1,
        "created_at": room["created_at"],
        "updated_at": room["created_at"],
    }
    address = made.headers["Location"]
    assert (await ann.get(address)).json() == room
    assert await listed(ann) == [room]

    changed = await ann.patch(address, json={"name": "Cellar", "topic": None})
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    assert (changed.json()["name"], changed.json()["topic"]) == ("Cellar", None)
    assert changed.json()["updated_at"] > room["updated_at"]
    same = await ann.patch(address, json={"name": "Cellar"})
    assert same.json() == changed.json() == (await ann.get(address)).json()

    assert (await ann.delete(address)).status_code == 204
    for answer in (await ann.get(address), await ann.delete(address)):
        assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such room.")
    assert await listed(ann) == []


async def test_nobody_who_is_not_signed_in_passes(client: AsyncClient) -> None:
    room = f"{ROOMS}/{uuid4()}"
    one = uuid4()
    for method, path in (
        ("GET", ROOMS), ("POST", ROOMS), ("POST", f"{ROOMS}/direct"), ("GET", room),
        ("PATCH", room), ("DELETE", room), ("POST", f"{room}/join"), ("POST", f"{room}/read"),
        ("GET", f"{room}/members"), ("POST", f"{room}/members"), ("GET", f"{room}/members/{one}"),
        ("PATCH", f"{room}/members/{one}"), ("DELETE", f"{room}/members/{one}"),
        ("GET", f"{room}/messages"), ("POST", f"{room}/messages"),
        ("GET", f"{room}/messages/{one}"), ("PATCH", f"{room}/messages/{one}"),
        ("DELETE", f"{room}/messages/{one}"),
    ):  # fmt: skip
        assert (await client.request(method, path)).status_code == 401, path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", " "),
        ("name", "a" * 101),
        ("name", "one\ntwo"),
        ("name", "\u202eevil"),
        ("name", "zero\u200bwidth"),
        ("name", "\u3164"),
        ("name", " \u00ad\u200d\ufe0f"),
        ("name", "\x00"),
        ("name", None),
        ("topic", "a" * 501),
        ("topic", "\u2066"),
        ("private", "true"),
        ("private", None),
        ("kind", "direct"),
        ("last_seq", 7),
        ("revision", 7),
        ("role", "owner"),
    ],
)
async def test_bounds(app: Ferrule, actors: Actors, make: Make, field: str, value: Any) -> None:
    ann = await actors("ann")
    room = await make(ann)
    before = (await ann.get(room)).json()
    for answer in (
        await ann.post(ROOMS, json={"name": "Kitchen", field: value}),
        await ann.patch(room, json={field: value}),
    ):
        assert answer.status_code == 422
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
    assert (await ann.get(room)).json() == before
    assert await count(app, Room) == 1


async def test_if_match_guards_every_change(actors: Actors, make: Make, say: Say) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    message = f"{room}/messages/{(await say(ann, room, 'Hello'))['id']}"
    stale = {"If-Match": '"7"'}
    for address, body in (
        (room, {"name": "Cellar"}),
        (member(room, bob), {"role": "admin"}),
        (message, {"text": "Hi"}),
    ):
        tag = (await ann.get(address)).headers["ETag"]
        assert (await ann.patch(address, json=body, headers=stale)).status_code == 412
        assert (await ann.delete(address, headers=stale)).status_code == 412
        changed = await ann.patch(address, json=body, headers={"If-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["ETag"] != tag
        assert (await ann.patch(address, json=body, headers={"If-Match": tag})).status_code == 412
    for address in (message, member(room, bob), room):
        tag = (await ann.get(address)).headers["ETag"]
        assert (await ann.delete(address, headers={"If-Match": tag})).status_code == 204


async def test_messages_do_not_raise_the_revision_of_a_room(
    actors: Actors, make: Make, say: Say
) -> None:
    ann = await actors("ann")
    room = await make(ann)
    before = (await ann.get(room)).json()
    message = await say(ann, room, "Hello")
    after = (await ann.get(room)).json()
    assert after == {**before, "last_seq": 1, "last_message_at": message["created_at"]}


async def test_rooms_written_to_last_come_first(actors: Actors, make: Make, say: Say) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    rooms = [await make(ann, bob, name=f"{number}") for number in range(5)]
    for number in (3, 1):
        await say(ann, rooms[number], "Hello")
    assert [room["name"] for room in await listed(bob)] == ["1", "3", "4", "2", "0"]
    assert [room["name"] for room in await listed(bob, sort="name")] == list("01234")
    for sort in ("-name", "created_at,name", "-last_message_at", "updated_at"):
        whole = [room["id"] for room in await listed(bob, sort=sort)]
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 2, "sort": sort}
        while True:
            page = (await bob.get(ROOMS, params=query)).json()
            seen += [room["id"] for room in page["items"]]
            if page["pagination"]["next"] is None:
                break
            query["cursor"] = page["pagination"]["next"]
        assert seen == whole
    page = (await bob.get(ROOMS, params={"limit": 2, "page": 3})).json()
    assert [room["name"] for room in page["items"]] == ["0"]
    assert page["pagination"]["total"] == 5
    for refused in ({"limit": 0}, {"sort": "topic"}, {"cursor": "x"}, {"kind": "x"}, {"joined": 2}):
        assert (await bob.get(ROOMS, params=refused)).status_code == 422, refused


async def test_which_rooms_are_listed(actors: Actors, make: Make) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    await make(ann, name="Hidden")
    shared = await make(ann, bob, name="Shared 100%")
    public = await make(ann, name="Public", private=False)
    other = await make(ann, name="Other 100 %", private=False)
    direct = await ann.post(f"{ROOMS}/direct", json={"user_id": bob.user["id"]})

    assert {room["name"] for room in await listed(bob)} == {"Shared 100%", None}
    (found,) = await listed(bob, kind="direct")
    assert found == {**direct.json(), "peer_id": ann.user["id"], "peer_name": "ann"}
    assert [room["id"] for room in await listed(bob, kind="room")] == [id_of(shared)]
    assert [room["id"] for room in await listed(bob, search="0%")] == [id_of(shared)]

    to_join = await listed(bob, joined=False)
    assert [room["id"] for room in to_join] == [id_of(other), id_of(public)]
    assert {(room["role"], room["unread"], room["read_seq"]) for room in to_join} == {(None, 0, 0)}
    assert [room["id"] for room in await listed(bob, joined=False, search="PUB")] == [id_of(public)]
    assert (await bob.post(f"{public}/join")).status_code == 200
    assert [room["id"] for room in await listed(bob, joined=False)] == [id_of(other)]
    assert len(await listed(bob)) == 3
    assert await listed(ann, joined=False) == []


async def test_a_list_takes_as_many_queries_for_many_rooms_as_for_one(
    app: Ferrule, actors: Actors, make: Make, say: Say, caplog: pytest.LogCaptureFixture
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    for number in range(20):
        room = await make(ann, bob, name=f"{number}")
        await say(ann, room, "Hello")
    counted = caplog.records

    def queries() -> int:
        told = [each.msg for each in counted if each.name == "ferrule.development"]
        return told[-1]["queries"] if told else 0  # type: ignore[index, call-overload]

    update = {"max_queries": 1, "slow_callback": 0}
    settings = app.settings.observability.model_copy(update=update)
    app.configure(app.settings.model_copy(update={"observability": settings}))
    async with app.router.lifespan_context(app):
        await bob.get(ROOMS)  # who is calling is remembered for a moment
        caplog.clear()
        assert [room["unread"] for room in await listed(bob)] == [1] * 20
        assert queries() == 3
        assert len(await listed(bob, count=False)) == 20
        assert queries() == 2


async def test_two_people_have_one_direct_room(app: Ferrule, actors: Actors) -> None:
    ann, bob, eve = await actors("ann"), await actors("bob"), await actors("eve")
    made = await ann.post(f"{ROOMS}/direct", json={"user_id": bob.user["id"]})
    assert made.status_code == 200
    room = made.json()
    assert {**room, "id": "", "created_at": "", "updated_at": ""} == {
        "id": "",
        "name": None,
        "topic": None,
        "kind": "direct",
        "private": True,
        "members": 2,
        "last_seq": 0,
        "last_message_at": None,
        "role": "member",
        "peer_id": bob.user["id"],
        "peer_name": "bob",
        "read_seq": 0,
        "unread": 0,
        "revision": 1,
        "created_at": "",
        "updated_at": "",
    }
    theirs = await bob.post(f"{ROOMS}/direct", json={"user_id": ann.user["id"]})
    assert theirs.json() == {**room, "peer_id": ann.user["id"], "peer_name": "ann"}
    other = await ann.post(f"{ROOMS}/direct", json={"user_id": eve.user["id"]})
    assert other.json()["id"] != room["id"]
    assert await count(app, Room) == 2


async def test_a_direct_room_stays_as_it_is(actors: Actors, say: Say) -> None:
    ann, bob, eve = await actors("ann"), await actors("bob"), await actors("eve")
    made = await ann.post(f"{ROOMS}/direct", json={"user_id": bob.user["id"]})
    room = f"{ROOMS}/{made.json()['id']}"
    for refused in (
        await ann.patch(room, json={"name": "Ours"}),
        await ann.patch(room, json={"private": False}),
        await ann.delete(room),
        await ann.post(f"{room}/members", json={"user_id": eve.user["id"]}),
        await ann.patch(member(room, bob), json={"role": "owner"}),
        await ann.patch(member(room, ann), json={"role": "owner"}),
        await ann.delete(member(room, bob)),
    ):
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    left = await ann.delete(member(room, ann))
    assert (left.status_code, left.json()["code"]) == (409, "direct_room")
    message = await say(ann, room, "Hello")
    assert (await bob.delete(f"{room}/messages/{message['id']}")).status_code == 403
    assert (await bob.get(room)).json()["unread"] == 1


async def test_whom_a_direct_room_is_refused_with(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    for who, refusal in ((ann.user["id"], (409, "yourself")), (str(uuid4()), (404, "not_found"))):
        refused = await ann.post(f"{ROOMS}/direct", json={"user_id": who})
        assert (refused.status_code, refused.json()["code"]) == refusal
    assert await count(app, Room) == 0


async def test_fifty_who_ask_at_once_get_one_direct_room(app: Ferrule, actors: Actors) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    answers = await asyncio.gather(
        *(
            one.post(f"{ROOMS}/direct", json={"user_id": other.user["id"]})
            for _ in range(25)
            for one, other in ((ann, bob), (bob, ann))
        )
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await count(app, Room), await count(app, RoomMember)) == (1, 2)


async def test_nobody_is_in_more_rooms_than_the_setting_has(
    app: Ferrule, actors: Actors, make: Make
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    public = await make(bob, private=False)
    limited(app, max_rooms=3)
    answers = await asyncio.gather(
        *(ann.post(ROOMS, json={"name": f"{number}"}) for number in range(10))
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 7
    for refused in (
        await ann.post(ROOMS, json={"name": "More"}),
        await ann.post(f"{public}/join"),
        await ann.post(f"{ROOMS}/direct", json={"user_id": bob.user["id"]}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "too_many_rooms")
    assert await count(app, Room) == 4
    assert len(await listed(ann)) == 3


async def test_nobody_uses_up_the_rooms_of_others(app: Ferrule, actors: Actors, make: Make) -> None:
    ann, bob, cid = await actors("ann"), await actors("bob"), await actors("cid")
    limited(app, max_rooms=2)
    for _ in "12":
        await make(bob, ann)
    assert (await cid.post(f"{ROOMS}/direct", json={"user_id": ann.user["id"]})).status_code == 200
    assert len(await listed(ann)) == 3
    for status in (201, 201, 409):
        assert (await ann.post(ROOMS, json={"name": "Mine"})).status_code == status
