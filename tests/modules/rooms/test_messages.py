"""Messages: posting, their numbers, the history, editing, deleting, and what was read."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from httpx import Response
from sqlalchemy import select

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.modules.rooms.models import Room, RoomMember
from ferrule.testing import ActorClient, Actors
from tests.modules.rooms.conftest import Make, Say, Told, id_of, member


async def history(who: ActorClient, room: str, **query: Any) -> list[dict[str, Any]]:
    answer = await who.get(f"{room}/messages", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def numbers(who: ActorClient, room: str, **query: Any) -> list[int]:
    return [message["seq"] for message in await history(who, room, **query)]


async def test_a_message_lives(actors: Actors, make: Make) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    made = await ann.post(f"{room}/messages", json={"text": "Hello", "key": "k1"})
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    message = made.json()
    address = f"{room}/messages/{message['id']}"
    assert made.headers["Location"] == address
    assert message == {
        "id": message["id"],
        "room_id": id_of(room),
        "seq": 1,
        "author_id": ann.user["id"],
        "author_name": "ann",
        "key": "k1",
        "text": "Hello",
        "edited_at": None,
        "deleted": False,
        "revision": 1,
        "created_at": message["created_at"],
        "updated_at": message["created_at"],
    }
    assert (await bob.get(address)).json() == message
    assert await history(bob, room) == [message]

    edited = await ann.patch(address, json={"text": "Hi"})
    assert (edited.status_code, edited.headers["ETag"]) == (200, '"2"')
    assert edited.json() == {
        **message,
        "text": "Hi",
        "revision": 2,
        "edited_at": edited.json()["edited_at"],
        "updated_at": edited.json()["updated_at"],
    }
    assert edited.json()["edited_at"] > message["created_at"]
    for same in ({"text": "Hi"}, {}):
        assert (await ann.patch(address, json=same)).json() == edited.json()

    assert (await ann.delete(address)).status_code == 204
    gone = (await bob.get(address)).json()
    assert (gone["text"], gone["deleted"], gone["seq"], gone["revision"]) == (None, True, 1, 3)
    assert await history(bob, room) == [gone]
    again = await ann.patch(address, json={"text": "Back"})
    assert (again.status_code, again.json()["code"]) == (409, "message_deleted")
    assert (await ann.delete(address)).status_code == 204
    assert (await bob.get(address)).json() == gone


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", ""),
        ("text", " \n"),
        ("text", "a" * 4001),
        ("text", "\x00"),
        ("text", None),
        ("key", ""),
        ("key", "a" * 201),
        ("key", "a\nb"),
        ("seq", 7),
        ("author_id", None),
        ("author_name", "Bob"),
    ],
)
async def test_bounds(actors: Actors, make: Make, field: str, value: Any) -> None:
    ann = await actors("ann")
    room = await make(ann)
    refused = await ann.post(f"{room}/messages", json={"text": "Hello", field: value})
    assert refused.status_code == 422
    assert [error["loc"] for error in refused.json()["errors"]] == [["body", field]]
    assert await history(ann, room) == []


async def test_the_largest_and_the_oddest_come_as_they_were_sent(
    actors: Actors, make: Make, say: Say, told: Told
) -> None:
    ann = await actors("ann")
    room = await make(ann)
    for text in ("\U0001f426" * 4000, "\x01" * 3999 + "a", "\u202e\r\n'; DROP TABLE rooms --"):
        message = await say(ann, room, text)
        assert message["text"] == text
        assert (await history(ann, room, limit=1)) == [message]
        assert (await told(f"rooms/{id_of(room)}"))[-1]["data"] == message


async def test_pages_follow_each_other(actors: Actors, make: Make, say: Say) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    for number in range(1, 12):
        await say(ann, room, f"{number}")
    assert await numbers(bob, room) == list(range(11, 0, -1))
    assert await numbers(bob, room, limit=3) == [11, 10, 9]
    assert await numbers(bob, room, limit=3, before=9) == [8, 7, 6]
    assert await numbers(bob, room, limit=3, after=8) == [9, 10, 11]
    assert await numbers(bob, room, after=3, before=6) == [4, 5]
    assert await numbers(bob, room, after=11) == await numbers(bob, room, before=1) == []
    for query, expected in (
        ({"limit": 4}, list(range(11, 0, -1))),
        ({"limit": 4, "before": 8}, list(range(7, 0, -1))),
        ({"limit": 4, "after": 2}, list(range(3, 12))),
    ):
        seen: list[int] = []
        asked: dict[str, Any] = dict(query)
        while True:
            page = (await bob.get(f"{room}/messages", params=asked)).json()
            seen += [message["seq"] for message in page["items"]]
            if page["pagination"]["next"] is None:
                break
            asked["cursor"] = page["pagination"]["next"]
        assert seen == expected
    other = await make(bob)
    for address, refused in (
        (other, {"cursor": asked["cursor"]}),
        (room, {"cursor": "x"}),
        (room, {"limit": 0}),
        (room, {"limit": 101}),
        (room, {"before": -1}),
        (room, {"after": 2**53 + 1}),
        (room, {"offset": 1}),
    ):
        answer = await bob.get(f"{address}/messages", params=refused)
        assert answer.status_code == 422, refused


async def test_who_edits_and_deletes(actors: Actors, make: Make, say: Say) -> None:
    ann, bob, cid, dan = [await actors(name) for name in ("ann", "bob", "cid", "dan")]
    room = await make(ann, bob, cid, admins=[dan])
    message = f"{room}/messages/{(await say(bob, room, 'Hello'))['id']}"
    for other in (ann, cid, dan):
        assert (await other.patch(message, json={"text": "Mine"})).status_code == 403
    assert (await cid.delete(message)).status_code == 403
    assert (await bob.patch(message, json={"text": "Mine"})).status_code == 200
    assert (await dan.delete(message)).status_code == 204
    owners = f"{room}/messages/{(await say(ann, room, 'Hello'))['id']}"
    assert (await dan.delete(owners)).status_code == 204

    left = f"{room}/messages/{(await say(bob, room, 'Hello'))['id']}"
    await ann.patch(room, json={"private": False})
    await bob.delete(member(room, bob))
    for refused in (await bob.patch(left, json={"text": "Hi"}), await bob.delete(left)):
        assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")
    assert (await bob.get(left)).json()["text"] == "Hello"


async def test_a_key_is_posted_once(actors: Actors, make: Make, say: Say, told: Told) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room, other = await make(ann, bob), await make(ann)
    first = await say(ann, room, "Hello", key="k")
    assert await say(ann, room, "Something else", key="k") == first
    # A key is its author's, in one room.
    assert (await say(bob, room, "Hello", key="k"))["seq"] == 2
    assert (await say(ann, other, "Hello", key="k"))["seq"] == 1
    assert (await say(ann, room, "Hello"))["seq"] == 3
    assert (await say(ann, room, "Hello"))["seq"] == 4
    seen = (await ann.get(room)).json()
    assert seen["last_seq"] == 4
    posted = [each for each in await told(f"rooms/{id_of(room)}") if each["type"] == "message"]
    assert [each["data"]["seq"] for each in posted] == [1, 2, 3, 4]
    await ann.delete(f"{room}/messages/{first['id']}")
    assert (await say(ann, room, "Hello", key="k"))["deleted"]


async def test_fifty_at_once_with_one_key(actors: Actors, make: Make, told: Told) -> None:
    ann = await actors("ann")
    room = await make(ann)
    body = {"text": "Hello", "key": "k"}
    answers = await asyncio.gather(*(ann.post(f"{room}/messages", json=body) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert await numbers(ann, room) == [1]
    assert (await ann.get(room)).json()["last_seq"] == 1
    posted = [each for each in await told(f"rooms/{id_of(room)}") if each["type"] == "message"]
    assert [each["data"] for each in posted] == [answers[0].json()]


async def test_numbers_have_no_gaps_and_are_in_the_order_of_events(
    actors: Actors, make: Make, told: Told
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)

    async def posts(who: ActorClient) -> list[Response]:
        return [
            # Every third is posted twice, and some are refused.
            await who.post(f"{room}/messages", json=body)
            for number in range(12)
            for body in (
                {"text": "Hello", "key": f"{number // 3 * 3}"},
                {"text": "Hello" if number % 4 else " "},
            )
        ]

    answers = [
        answer
        for each in await asyncio.gather(*(posts(who) for who in (ann, bob) * 3))
        for answer in each
    ]
    assert {answer.status_code for answer in answers} == {201, 422}
    posted = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    seen = [message async for message in _all(ann, room)]
    assert {message["id"] for message in seen} == posted
    assert [message["seq"] for message in seen] == list(range(1, len(posted) + 1))
    events = [each for each in await told(f"rooms/{id_of(room)}") if each["type"] == "message"]
    assert [each["data"] for each in events] == seen


async def _all(who: ActorClient, room: str) -> Any:
    after = 0
    while messages := await history(who, room, after=after):
        for message in messages:
            yield message
        after = messages[-1]["seq"]


async def test_what_is_not_read_is_counted(actors: Actors, make: Make, say: Say) -> None:
    ann, bob, cid = await actors("ann"), await actors("bob"), await actors("cid")
    room = await make(ann, bob, private=False)

    async def unread() -> list[int]:
        return [(await who.get(room)).json()["unread"] for who in (ann, bob, cid)]

    messages = [await say(ann, room, "Hello") for _ in range(4)]
    await say(bob, room, "Hello")
    assert await unread() == [1, 4, 0]
    await ann.delete(f"{room}/messages/{messages[3]['id']}")
    assert await unread() == [1, 3, 0]
    for seq, expected in ((2, (2, 1)), (1, (2, 1)), (0, (2, 1)), (2**53, (5, 0)), (3, (5, 0))):
        answer = await bob.post(f"{room}/read", json={"seq": seq})
        assert answer.status_code == 200
        assert (answer.json()["seq"], answer.json()["unread"]) == expected
    assert await unread() == [1, 0, 0]
    assert (await bob.get(room)).json()["read_seq"] == 5
    assert (await ann.get(member(room, bob))).json()["read_seq"] == 5
    await say(ann, room, "Hello")
    assert await unread() == [1, 1, 0]
    # Who comes later has nothing to catch up with.
    await cid.post(f"{room}/join")
    assert await unread() == [1, 1, 0]
    for refused in ({"seq": -1}, {"seq": 2**53 + 2}, {"seq": None}, {}, {"seq": "1"}):
        assert (await bob.post(f"{room}/read", json=refused)).status_code == 422


async def test_marks_that_are_set_at_once_end_at_the_highest(
    actors: Actors, make: Make, say: Say, told: Told
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    for _ in range(20):
        await say(ann, room, "Hello")
    answers = await asyncio.gather(
        *(bob.post(f"{room}/read", json={"seq": seq}) for seq in (*range(20, 0, -1), 20))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert (await bob.get(room)).json()["read_seq"] == 20
    marks = [
        each["data"]["seq"] for each in await told(f"rooms/{id_of(room)}") if each["type"] == "read"
    ]
    assert marks == sorted(set(marks))
    assert marks[-1] == 20


async def test_who_is_added_meanwhile_posts_another_message(
    actors: Actors, app: Ferrule, make: Make, say: Say, told: Told
) -> None:
    """Not one that they posted before, also without a key."""
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    before = await say(bob, room, "Before")
    await bob.delete(member(room, bob))
    async with app.kit[Database].write() as session:
        id = UUID(id_of(room))
        await session.execute(select(Room.id).where(Room.id == id).with_for_update())
        session.add(
            RoomMember(room_id=id, user_id=UUID(bob.user["id"]), role="member", added=False)
        )
        await session.flush()
        posting = asyncio.create_task(bob.post(f"{room}/messages", json={"text": "After"}))
        await asyncio.sleep(0.2)
        assert not posting.done()
    answer = await posting
    assert answer.status_code == 201
    assert answer.json()["id"] != before["id"]
    assert [each["text"] for each in await history(ann, room)] == ["After", "Before"]
    assert (await told(f"rooms/{id_of(room)}"))[-1]["data"]["text"] == "After"


async def test_who_is_removed_meanwhile_posts_no_more(
    actors: Actors, make: Make, told: Told
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    posts = [bob.post(f"{room}/messages", json={"text": "Hello"}) for _ in range(20)]
    removal, *answers = await asyncio.gather(ann.delete(member(room, bob)), *posts)
    assert removal.status_code == 204
    assert {answer.status_code for answer in answers} <= {201, 404}
    types = [each["type"] for each in await told(f"rooms/{id_of(room)}")]
    assert types[-1] == "member.left"
    assert types.count("message") == len([a for a in answers if a.status_code == 201])
    assert (await ann.get(room)).json()["last_seq"] == types.count("message")
