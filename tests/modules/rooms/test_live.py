"""What streams are told: rooms to their readers, memberships to whose they are."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from ferrule import Actor, Ferrule, Invalid, NotFound
from ferrule.db import Database
from ferrule.modules.rooms.channels import publish
from ferrule.modules.rooms.errors import NotAMember
from ferrule.testing import ActorClient, Actors
from tests.modules.rooms.conftest import ROOMS, Make, Say, Told, id_of, member
from tests.streams.boards import silent, subscribe, until

STREAMS = "/api/v1/streams"
ONES_OWN = ("role", "peer_id", "peer_name", "read_seq", "unread")


def shared(room: dict[str, Any]) -> dict[str, Any]:
    """What a room's events tell of it."""
    return {name: value for name, value in room.items() if name not in ONES_OWN}


async def test_every_change_is_told_as_the_api_answers_it(
    actors: Actors, make: Make, say: Say, told: Told
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann)
    expected: list[tuple[str, ActorClient, Any]] = []

    def expect(type: str, by: ActorClient, data: Any) -> None:
        expected.append((type, by, data))

    expect("member.joined", ann, (await ann.get(member(room, ann))).json())
    body = {"user_id": bob.user["id"]}
    expect("member.joined", ann, (await ann.post(f"{room}/members", json=body)).json())
    message = await say(bob, room, "Hello", key="k")
    expect("message", bob, message)
    await say(bob, room, "Hello", key="k")
    address = f"{room}/messages/{message['id']}"
    expect("message.edited", bob, (await bob.patch(address, json={"text": "Hi"})).json())
    await bob.patch(address, json={"text": "Hi"})
    for seq in (1, 0, 1):
        await ann.post(f"{room}/read", json={"seq": seq})
    expect("read", ann, {"user_id": ann.user["id"], "seq": 1})
    assert (await ann.delete(address)).status_code == 204
    left = (await ann.get(address)).json()
    expect("message.deleted", ann, left)
    await bob.delete(address)
    expect("room.updated", ann, shared((await ann.patch(room, json={"name": "Cellar"})).json()))
    await ann.patch(room, json={"name": "Cellar"})
    promoted = await ann.patch(member(room, bob), json={"role": "admin"})
    expect("member.updated", ann, promoted.json())
    await ann.patch(member(room, bob), json={"role": "admin"})
    await bob.delete(member(room, bob))
    expect("member.left", bob, {"room_id": id_of(room), "user_id": bob.user["id"]})

    events = await told(f"rooms/{id_of(room)}")
    assert [event["type"] for event in events] == [type for type, _, _ in expected]
    for event, (type, by, data) in zip(events, expected, strict=True):
        # What a message said before is not replayed.
        redacted = type in ("message", "message.edited")
        told_now = {"id": left["id"], "redacted": True} if redacted else data
        assert event == {"type": type, "by": by.user["id"], "data": told_now}
    await ann.delete(room)
    assert await told(f"rooms/{id_of(room)}") == []


async def test_what_is_refused_is_not_told(actors: Actors, make: Make, told: Told) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, private=False)
    before = await told(f"rooms/{id_of(room)}")
    for refused in (
        await bob.post(f"{room}/messages", json={"text": "Hello"}),
        await bob.patch(room, json={"name": "Mine"}),
        await bob.post(f"{room}/members", json={"user_id": bob.user["id"]}),
        await ann.patch(room, json={"name": "Mine"}, headers={"If-Match": '"7"'}),
        await ann.delete(member(room, bob)),
    ):
        assert refused.status_code in (403, 404, 412)
    assert await told(f"rooms/{id_of(room)}") == before
    assert await told(f"memberships/{bob.user['id']}") == []


async def test_memberships_are_told_to_whose_they_are(
    actors: Actors, make: Make, say: Say, told: Told
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room, public = await make(ann), await make(ann, private=False)
    await say(ann, room, "Hello")
    await ann.post(f"{room}/members", json={"user_id": bob.user["id"]})
    seen = [(await bob.get(room)).json()]
    seen.append((await bob.post(f"{public}/join")).json())
    direct = await ann.post(f"{ROOMS}/direct", json={"user_id": bob.user["id"]})
    seen.append((await bob.get(f"{ROOMS}/{direct.json()['id']}")).json())
    # Whoever was told of a room has it as it was then.
    seen[2] |= {"members": (await told(f"memberships/{bob.user['id']}"))[2]["data"]["members"]}
    await ann.delete(member(room, bob))
    await ann.delete(public)

    bobs = await told(f"memberships/{bob.user['id']}")
    assert [event["type"] for event in bobs] == ["joined"] * 3 + ["left"] * 2
    assert [event["data"] for event in bobs[:3]] == seen
    assert [event["data"] for event in bobs[3:]] == [
        {"room_id": id_of(each), "user_id": bob.user["id"]} for each in (room, public)
    ]
    by = [event["by"] for event in bobs]
    assert by == [who.user["id"] for who in (ann, bob, ann, ann, ann)]
    anns = [event["type"] for event in await told(f"memberships/{ann.user['id']}")]
    assert anns == ["joined"] * 3 + ["left"]


async def test_who_loses_something_is_looked_at_again(
    actors: Actors, make: Make, told: Told
) -> None:
    ann, bob, cid = await actors("ann"), await actors("bob"), await actors("cid")
    room = await make(ann, cid, admins=[bob])

    async def rechecked() -> list[str]:
        nonlocal known
        new = [event["data"] for event in await told("control/users")][known:]
        known += len(new)
        return [user for data in new if (user := data.get("user"))]

    known = 0
    await rechecked()
    await ann.patch(member(room, cid), json={"role": "admin"})
    assert await rechecked() == []
    await ann.patch(member(room, bob), json={"role": "member"})
    assert await rechecked() == [bob.user["id"]]
    await ann.delete(member(room, cid))
    assert await rechecked() == [cid.user["id"]]
    await ann.delete(room)
    assert sorted(await rechecked()) == sorted([ann.user["id"], bob.user["id"]])


async def test_z1_streams_of_rooms_that_one_does_not_see(
    actors: Actors, make: Make, say: Say
) -> None:
    ann, bob, eve = await actors("ann"), await actors("bob"), await actors("eve")
    private, public = await make(ann, bob), await make(ann, private=False)
    headers = {"X-Request-ID": "the-same-one"}

    async def page(who: ActorClient, room: str) -> Any:
        return await who.get(f"{STREAMS}/rooms/{id_of(room)}?since=0", headers=headers)

    message = await say(bob, private, "Hello")
    items = (await page(bob, private)).json()["items"]
    assert items[-1]["data"] == message
    assert (await page(eve, public)).status_code == 200
    none = await page(eve, f"{ROOMS}/{uuid4()}")
    assert none.status_code == 404
    assert (await page(eve, private)).content == none.content
    await bob.delete(member(private, bob))
    assert (await page(bob, private)).content == none.content
    assert [item["type"] for item in (await bob.get(f"{STREAMS}/memberships?since=0")).json()[
        "items"]] == ["joined", "left"]  # fmt: skip
    assert (await eve.get(f"{STREAMS}/memberships/{bob.user['id']}?since=0")).status_code == 404


async def test_what_is_published_is_posted(
    app: Ferrule, actors: Actors, make: Make, told: Told
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann)
    id, actor = UUID(id_of(room)), Actor(kind="user", id=UUID(ann.user["id"]))

    async def pub(who: Actor, data: Any, key: str | None = None) -> Any:
        async with app.kit[Database].write() as session:
            return await publish(session, who, id, data, key)

    posted = await pub(actor, {"text": "Hello"}, "k")
    assert (await ann.get(f"{room}/messages/{posted['id']}")).json() == posted
    assert await pub(actor, {"text": "Hello"}, "k") == posted
    assert (await told(f"rooms/{id_of(room)}"))[-1]["data"] == posted
    for data, key in (
        ({}, None), ("Hello", None), ([], None), (None, None), (7, None), ({"text": ""}, None),
        ({"text": "a", "key": "k"}, None), ({"text": "a"}, "k" * 201),
    ):  # fmt: skip
        with pytest.raises(Invalid):
            await pub(actor, data, key)
    stranger = Actor(kind="user", id=UUID(bob.user["id"]))
    with pytest.raises(NotFound):
        await pub(stranger, {"text": "Hello"})
    await ann.patch(room, json={"private": False})
    with pytest.raises(NotAMember):
        await pub(stranger, {"text": "Hello"})
    assert (await ann.get(room)).json()["last_seq"] == 1


async def test_a_chat_over_one_connection(actors: Actors, make: Make) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann)
    channel = f"rooms/{id_of(room)}"
    async with ann.socket() as anns, bob.socket() as bobs:
        await subscribe(anns, channel)
        await subscribe(bobs, "memberships")
        await ann.post(f"{room}/members", json={"user_id": bob.user["id"]})
        joined = await until(bobs, "ev", ch="memberships")
        assert (joined["type"], joined["data"]["id"]) == ("joined", id_of(room))
        await subscribe(bobs, channel)
        said = {"id": 1, "t": "pub", "ch": channel, "data": {"text": "Hello"}, "key": "k"}
        await bobs.send(said)
        told = await until(anns, "ev", ch=channel, type="message")
        assert told == await until(bobs, "ev", ch=channel, type="message")
        assert (told["data"]["text"], told["by"]) == ("Hello", bob.user["id"])
        await bobs.send(said)
        assert (await until(bobs, "ok", id=1))["data"] == told["data"]
        assert [each for each in await silent(anns) if each["t"] == "ev"] == []


@pytest.mark.parametrize("how", ["removed", "left", "deleted"])
async def test_w5_who_is_no_member_hears_no_more(
    actors: Actors, make: Make, say: Say, how: str
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    channel = f"rooms/{id_of(room)}"
    async with bob.socket() as bobs:
        await subscribe(bobs, channel)
        if how == "deleted":
            await ann.delete(room)
        else:
            await (ann if how == "removed" else bob).delete(member(room, bob))
        ended = await until(bobs, "err", ch=channel)
        assert (ended["code"], ended["retry"]) == ("not_found", False)
        if how != "deleted":
            await say(ann, room, "Without bob")
        assert [each for each in await silent(bobs) if each["t"] == "ev"] == []


async def test_a_room_that_becomes_private_sends_those_away_who_read_along(actors: Actors) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    made = await ann.post("/api/v1/rooms", json={"name": "open", "private": False})
    name = f"rooms/{made.json()['id']}"
    async with (
        ann.socket(f"/api/v1/ws?ch={name}") as hers,
        bob.socket(f"/api/v1/ws?ch={name}") as his,
    ):
        for socket in (hers, his):
            while (await socket.receive())["t"] != "live":
                pass
        answer = await ann.patch(f"/api/v1/{name}", json={"private": True})
        assert answer.status_code == 200, answer.text
        while (refused := await his.receive(within=2))["t"] != "err":
            pass
        assert (refused["ch"], refused["code"], refused["retry"]) == (name, "not_found", False)
        await ann.post(f"/api/v1/{name}/messages", json={"text": "among us"})
        told: list[str] = []
        while "message" not in told:
            told.append((await hers.receive()).get("type"))
        with pytest.raises(TimeoutError):
            while True:
                assert (await his.receive(within=0.3)).get("type") != "message"


async def test_what_was_edited_or_deleted_is_not_replayed(actors: Actors) -> None:
    ann = await actors("ann")
    made = await ann.post("/api/v1/rooms", json={"name": "here"})
    name = f"rooms/{made.json()['id']}"
    words = ("a slip of the tongue", "a wrong number", "a good word")
    ids = [
        (await ann.post(f"/api/v1/{name}/messages", json={"text": each})).json()["id"]
        for each in words
    ]
    await ann.patch(f"/api/v1/{name}/messages/{ids[1]}", json={"text": "another number"})
    await ann.delete(f"/api/v1/{name}/messages/{ids[0]}")
    kept = (await ann.get(f"/api/v1/streams/{name}?since=0")).json()
    assert [event["offset"] for event in kept["items"]] == list(range(1, kept["top"] + 1))
    assert "slip" not in str(kept)
    assert "wrong" not in str(kept)
    assert "a good word" in str(kept)
    await ann.delete(f"/api/v1/{name}")
    async with ann.app.kit[Database].read() as session:
        left = await session.execute(text("SELECT data FROM stream_events"))
        assert "a good word" not in str(left.all())
