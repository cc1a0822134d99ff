"""Members: joining, adding, roles, leaving, and who may do what."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, update

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.modules.auth import User
from ferrule.testing import ActorClient, Actors
from tests.modules.rooms.conftest import ROOMS, Make, Say, Told, id_of, member
from tests.modules.rooms.test_rooms import limited


async def roles(who: ActorClient, room: str) -> dict[str, str]:
    answer = await who.get(f"{room}/members")
    assert answer.status_code == 200, answer.text
    return {each["name"]: each["role"] for each in answer.json()["items"]}


async def forget(app: Ferrule, who: ActorClient) -> None:
    """Delete somebody's account."""
    async with app.kit[Database].write() as session:
        await session.execute(delete(User).where(User.id == UUID(who.user["id"])))


async def test_a_membership_lives(actors: Actors, make: Make, say: Say) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann)
    await say(ann, room, "Before you came")
    added = await ann.post(f"{room}/members", json={"user_id": bob.user["id"]})
    assert (added.status_code, added.headers["ETag"]) == (201, '"1"')
    assert added.headers["Location"] == member(room, bob)
    made = added.json()
    assert made == {
        "id": made["id"],
        "room_id": id_of(room),
        "user_id": bob.user["id"],
        "name": "bob",
        "role": "member",
        "read_seq": 1,
        "revision": 1,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert (await bob.get(member(room, bob))).json() == made
    seen = (await bob.get(room)).json()
    assert (seen["role"], seen["members"], seen["unread"]) == ("member", 2, 0)

    changed = await ann.patch(member(room, bob), json={"role": "admin"})
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    assert changed.json()["role"] == "admin"
    assert (await ann.patch(member(room, bob), json={})).json() == changed.json()
    assert await roles(bob, room) == {"ann": "owner", "bob": "admin"}

    assert (await ann.delete(member(room, bob))).status_code == 204
    assert (await bob.get(room)).status_code == 404
    for gone in (
        await ann.get(member(room, bob)),
        await ann.patch(member(room, bob), json={"role": "admin"}),
        await ann.delete(member(room, bob)),
    ):
        assert (gone.status_code, gone.json()["detail"]) == (404, "There is no such member.")


async def test_pages_of_members(actors: Actors, make: Make) -> None:
    ann, bob, cid, dan = [await actors(name) for name in ("ann", "bob", "cid", "dan")]
    room = await make(ann, bob, cid, admins=[dan])
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = (await bob.get(f"{room}/members", params=query)).json()
        seen += [each["name"] for each in page["items"]]
        if page["pagination"]["next"] is None:
            break
        query["cursor"] = page["pagination"]["next"]
    assert seen == ["ann", "bob", "cid", "dan"]
    page = (await bob.get(f"{room}/members", params={"role": "member"})).json()
    assert [each["name"] for each in page["items"]] == ["bob", "cid"]
    assert page["pagination"]["total"] == 2
    other = await make(ann)
    refused = await ann.get(f"{other}/members", params={"cursor": query["cursor"]})
    assert refused.status_code == 422


OPERATIONS: dict[str, tuple[str, str, Any]] = {
    "read": ("GET", "{room}", None),
    "list members": ("GET", "{room}/members", None),
    "get a member": ("GET", "{room}/members/{other}", None),
    "list messages": ("GET", "{room}/messages", None),
    "get a message": ("GET", "{room}/messages/{message}", None),
    "post": ("POST", "{room}/messages", {"text": "Hello"}),
    "mark read": ("POST", "{room}/read", {"seq": 1}),
    "edit a message of others": ("PATCH", "{room}/messages/{message}", {"text": "Mine"}),
    "delete a message of others": ("DELETE", "{room}/messages/{message}", None),
    "rename": ("PATCH", "{room}", {"name": "Cellar"}),
    "add": ("POST", "{room}/members", {"user_id": "{new}"}),
    "add an admin": ("POST", "{room}/members", {"user_id": "{new}", "role": "admin"}),
    "add an owner": ("POST", "{room}/members", {"user_id": "{new}", "role": "owner"}),
    "make an admin": ("PATCH", "{room}/members/{other}", {"role": "admin"}),
    "make an owner": ("PATCH", "{room}/members/{other}", {"role": "owner"}),
    "promote oneself": ("PATCH", "{room}/members/{me}", {"role": "owner"}),
    "remove a member": ("DELETE", "{room}/members/{other}", None),
    "remove an admin": ("DELETE", "{room}/members/{admin}", None),
    "remove an owner": ("DELETE", "{room}/members/{owner}", None),
    "leave": ("DELETE", "{room}/members/{me}", None),
    "delete": ("DELETE", "{room}", None),
}
STRANGER = dict.fromkeys(OPERATIONS, 404)
READER = dict.fromkeys(OPERATIONS, 403) | {
    "read": 200, "list members": 200, "get a member": 200, "list messages": 200,
    "get a message": 200, "leave": 404,
}  # fmt: skip
MEMBER = READER | {"post": 201, "mark read": 200, "leave": 204}
ADMIN = MEMBER | {
    "delete a message of others": 204, "rename": 200, "add": 201, "remove a member": 204,
}  # fmt: skip
OWNER = ADMIN | {
    "add an admin": 201, "add an owner": 201, "make an admin": 200, "make an owner": 200,
    "promote oneself": 200, "remove an admin": 204, "remove an owner": 204, "delete": 204,
}  # fmt: skip
POLICY = {"stranger": STRANGER, "reader": READER, "member": MEMBER, "admin": ADMIN, "owner": OWNER}


@pytest.mark.parametrize("role", POLICY)
async def test_z2_who_may_do_what(role: str, actors: Actors, make: Make, say: Say) -> None:
    ann, me, other, admin = [await actors(name) for name in ("ann", "me", "other", "admin")]
    new = await actors("new")
    found: dict[str, int] = {}
    for name, (method, path, body) in OPERATIONS.items():
        room = await make(ann, other, admins=[admin], private=role != "reader")
        if role in ("member", "admin", "owner"):
            await ann.post(f"{room}/members", json={"user_id": me.user["id"], "role": role})
        message = await say(ann, room, "Hello")
        ids = {"room": room, "message": message["id"], "owner": ann.user["id"]}
        ids |= {
            key: who.user["id"]
            for key, who in (("me", me), ("other", other), ("admin", admin), ("new", new))
        }
        if body is not None:
            body = {key: str(value).format(**ids) for key, value in body.items()}
            body |= {"seq": 1} if "seq" in body else {}
        answer = await me.request(method, path.format(**ids), json=body)
        found[name] = answer.status_code
    assert found == POLICY[role]


async def test_z1_a_private_room_does_not_exist_for_others(
    actors: Actors, make: Make, say: Say
) -> None:
    ann, bob, root = await actors("ann"), await actors("bob"), await actors("root", admin=True)
    room = await make(ann)
    direct = await ann.post(f"{ROOMS}/direct", json={"user_id": root.user["id"]})
    hidden = f"{ROOMS}/{direct.json()['id']}"
    message = await say(ann, room, "Hello")
    calls: tuple[tuple[str, str, Any], ...] = (
        ("GET", "", None), ("PATCH", "", {"name": "Mine"}), ("DELETE", "", None),
        ("POST", "/join", None), ("POST", "/read", {"seq": 1}), ("GET", "/members", None),
        ("POST", "/members", {"user_id": bob.user["id"]}),
        ("GET", f"/members/{ann.user['id']}", None), ("GET", f"/members/{bob.user['id']}", None),
        ("PATCH", f"/members/{ann.user['id']}", {"role": "member"}),
        ("DELETE", f"/members/{ann.user['id']}", None), ("GET", "/messages", None),
        ("POST", "/messages", {"text": "Hello"}), ("GET", f"/messages/{message['id']}", None),
        ("PATCH", f"/messages/{message['id']}", {"text": "Mine"}),
        ("DELETE", f"/messages/{message['id']}", None),
    )  # fmt: skip
    headers = {"X-Request-ID": "the-same-one"}
    for method, suffix, body in calls:
        missing = f"{ROOMS}/{uuid4()}"
        none = await bob.request(method, missing + suffix, json=body, headers=headers)
        assert none.status_code == 404
        for who, address in ((bob, room), (bob, hidden), (root, room)):
            theirs = await who.request(method, address + suffix, json=body, headers=headers)
            assert (theirs.status_code, theirs.content) == (404, none.content), (method, suffix)
    # Not even by what they leave for themselves, or by lists, counts and searches.
    own = await bob.delete(member(room, bob), headers=headers)
    none = await bob.delete(member(f"{ROOMS}/{uuid4()}", bob), headers=headers)
    assert (own.status_code, own.content) == (404, none.content)
    for query in ({}, {"joined": False}, {"search": "Kitchen"}, {"kind": "direct"}):
        page = (await bob.get(ROOMS, params=query)).json()
        assert (page["items"], page["pagination"]["total"]) == ([], 0)
    assert (await ann.get(room)).json()["revision"] == 1
    assert await roles(ann, room) == {"ann": "owner"}


async def test_a_message_is_found_in_its_own_room_alone(
    actors: Actors, make: Make, say: Say
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    mine, theirs = await make(ann), await make(bob)
    message = await say(bob, theirs, "Hello")
    for method, body in (("GET", None), ("PATCH", {"text": "Mine"}), ("DELETE", None)):
        headers = {"X-Request-ID": "the-same-one"}
        answers = [
            await ann.request(method, f"{mine}/messages/{id}", json=body, headers=headers)
            for id in (message["id"], uuid4())
        ]
        assert answers[0].status_code == 404
        assert answers[0].content == answers[1].content


async def test_public_rooms_are_joined(actors: Actors, make: Make, say: Say) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, private=False)
    await say(ann, room, "Hello")
    for refused in (
        await bob.post(f"{room}/messages", json={"text": "Hello"}),
        await bob.post(f"{room}/read", json={"seq": 1}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")
    answers = await asyncio.gather(*(bob.post(f"{room}/join") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].headers["ETag"] == '"1"'
    joined = answers[0].json()
    assert (joined["role"], joined["members"], joined["unread"]) == ("member", 2, 0)
    assert (await ann.post(f"{room}/join")).json()["role"] == "owner"
    await say(bob, room, "Hello")

    assert (await ann.patch(room, json={"private": True})).status_code == 200
    assert (await bob.delete(member(room, bob))).status_code == 204
    assert (await bob.post(f"{room}/join")).status_code == 404


async def test_who_cannot_be_added(app: Ferrule, actors: Actors, make: Make) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    again = await ann.post(f"{room}/members", json={"user_id": bob.user["id"], "role": "admin"})
    assert (again.status_code, again.json()["code"]) == (409, "already_a_member")
    nobody = await ann.post(f"{room}/members", json={"user_id": str(uuid4())})
    assert (nobody.status_code, nobody.json()["detail"]) == (404, "There is no such user.")
    for body in ({"user_id": "x"}, {}, {"user_id": bob.user["id"], "role": "king"}):
        assert (await ann.post(f"{room}/members", json=body)).status_code == 422
    limited(app, max_members=2)
    full = await ann.post(f"{room}/members", json={"user_id": (await actors("cid")).user["id"]})
    assert (full.status_code, full.json()["code"]) == (409, "room_full")
    assert await roles(ann, room) == {"ann": "owner", "bob": "member"}


async def test_a_room_is_not_filled_over_its_brim(app: Ferrule, actors: Actors, make: Make) -> None:
    ann = await actors("ann")
    room = await make(ann, private=False)
    limited(app, max_members=4)
    others = [await actors(f"user{number}") for number in range(8)]
    answers = await asyncio.gather(*(each.post(f"{room}/join") for each in others))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [409] * 5
    assert (await ann.get(room)).json()["members"] == 4


async def test_a_disabled_account_stays_a_member(app: Ferrule, actors: Actors, make: Make) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    async with app.kit[Database].write() as session:
        disabled = update(User).where(User.id == UUID(bob.user["id"])).values(disabled=True)
        await session.execute(disabled)
    assert await roles(ann, room) == {"ann": "owner", "bob": "member"}


async def test_a_room_keeps_an_owner(actors: Actors, make: Make) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    room = await make(ann, bob)
    for refused in (
        await ann.delete(member(room, ann)),
        await ann.patch(member(room, ann), json={"role": "admin"}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "last_owner")
    await ann.patch(member(room, bob), json={"role": "owner"})
    assert (await ann.patch(member(room, ann), json={"role": "admin"})).status_code == 200
    assert (await ann.delete(member(room, ann))).status_code == 204
    assert await roles(bob, room) == {"bob": "owner"}


async def test_owners_who_remove_each_other_at_once(actors: Actors, make: Make) -> None:
    ann, bob, cid = await actors("ann"), await actors("bob"), await actors("cid")
    room = await make(ann, cid)
    await ann.post(f"{room}/members", json={"user_id": bob.user["id"], "role": "owner"})
    answers = await asyncio.gather(ann.delete(member(room, bob)), bob.delete(member(room, ann)))
    assert sorted(answer.status_code for answer in answers) == [204, 404]
    assert list((await roles(cid, room)).values()).count("owner") == 1


async def test_owners_who_leave_at_once(actors: Actors, make: Make) -> None:
    ann, bob, cid = await actors("ann"), await actors("bob"), await actors("cid")
    room = await make(ann, cid)
    await ann.post(f"{room}/members", json={"user_id": bob.user["id"], "role": "owner"})
    answers = await asyncio.gather(*(each.delete(member(room, each)) for each in (ann, bob)))
    assert sorted(answer.status_code for answer in answers) == [204, 409]
    assert list((await roles(cid, room)).values()).count("owner") == 1


async def test_the_last_one_out_deletes_the_room(actors: Actors, make: Make, told: Told) -> None:
    ann = await actors("ann")
    room = await make(ann, private=False)
    assert (await ann.delete(member(room, ann))).status_code == 204
    assert (await ann.get(room)).status_code == 404
    assert await told(f"rooms/{id_of(room)}") == []


async def test_a_room_without_owner_goes_to_the_first_of_the_highest_role(
    app: Ferrule, actors: Actors, make: Make, told: Told
) -> None:
    ann, bob, cid, dan = [await actors(name) for name in ("ann", "bob", "cid", "dan")]
    room = await make(ann, bob, admins=[cid, dan])
    await forget(app, ann)
    assert (await bob.delete(room)).status_code == 403
    assert (await dan.patch(member(room, bob), json={"role": "admin"})).status_code == 403
    assert (await cid.patch(member(room, bob), json={"role": "admin"})).status_code == 200
    assert await roles(bob, room) == {"bob": "admin", "cid": "owner", "dan": "admin"}
    updates = (await told(f"rooms/{id_of(room)}"))[-2:]
    assert [(each["type"], each["data"]["role"]) for each in updates] == [
        ("member.updated", "owner"),
        ("member.updated", "admin"),
    ]
    assert (await cid.delete(member(room, cid))).status_code == 409
    await forget(app, cid)
    await forget(app, dan)
    await forget(app, bob)
