"""Items, as the API documents them; what holds for every generated resource is proved by them."""

import asyncio
from uuid import UUID

from httpx import AsyncClient
from sqlalchemy import select

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.modules.auth import User
from ferrule.testing import Actors

ITEMS = "/api/v1/items"


async def test_an_item_lives(actors: Actors) -> None:
    ann = await actors("ann")
    made = await ann.post(ITEMS, json={"name": "Milk", "price": "1.20", "metadata": {"a": [1]}})
    assert made.status_code == 201
    item = made.json()
    assert made.headers["Location"] == f"{ITEMS}/{item['id']}"
    assert made.headers["ETag"] == '"1"'
    assert item == {
        "id": item["id"],
        "name": "Milk",
        "description": None,
        "status": "",
        "price": "1.20",
        "quantity": 1,
        "metadata": {"a": [1]},
        "owner_id": ann.user["id"],
        "revision": 1,
        "created_at": item["created_at"],
        "updated_at": item["created_at"],
    }
    assert item["created_at"].endswith("Z")
    address = made.headers["Location"]

    assert (await ann.get(address)).json() == item

    changed = await ann.patch(address, json={"quantity": 5, "metadata": {"b": None}})
    assert changed.status_code == 200
    assert changed.json()["metadata"] == {"b": None}
    assert changed.json()["price"] == "1.20"
    assert changed.json()["revision"] == 2
    assert changed.json()["updated_at"] > item["updated_at"]

    replaced = await ann.put(address, json={"name": "Oat milk"})
    assert replaced.json()["price"] is None
    assert replaced.json()["quantity"] == 1
    assert replaced.json()["metadata"] == {}

    assert (await ann.delete(address)).status_code == 204
    for answer in (
        await ann.get(address),
        await ann.delete(address),
        await ann.patch(address, json={}),
    ):
        assert answer.status_code == 404
    assert (await ann.get(ITEMS)).json()["items"] == []

    restored = await ann.post(f"{address}/restore")
    assert restored.status_code == 200
    assert restored.json()["name"] == "Oat milk"
    assert (await ann.post(f"{address}/restore")).json() == restored.json()
    assert (await ann.get(address)).status_code == 200


async def test_nobody_who_is_not_signed_in_passes(client: AsyncClient) -> None:
    for method, path in (("GET", ITEMS), ("POST", ITEMS), ("GET", f"{ITEMS}/{'0' * 32}")):
        answer = await client.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthenticated"


async def test_z1_what_is_not_yours_does_not_exist(actors: Actors) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    address = (await ann.post(ITEMS, json={"name": "Milk"})).headers["Location"]
    missing = f"{ITEMS}/01a1fc00-8c1c-7bce-912c-5f2e8ba5785a"
    calls = (("GET", "", None), ("PUT", "", {"name": "x"}), ("PATCH", "", {"name": "x"}),
             ("DELETE", "", None), ("POST", "/restore", None))  # fmt: skip
    for method, suffix, body in calls:
        headers = {"X-Request-ID": "the-same-one"}
        theirs = await bob.request(method, address + suffix, json=body, headers=headers)
        none = await bob.request(method, missing + suffix, json=body, headers=headers)
        assert theirs.status_code == none.status_code == 404
        assert theirs.content == none.content
    listed = (await bob.get(ITEMS, params={"search": "Milk"})).json()
    assert (listed["items"], listed["pagination"]["total"]) == ([], 0)
    assert (await ann.get(address)).json()["revision"] == 1


async def test_z3_what_the_server_sets_cannot_be_sent(actors: Actors) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    for field, value in (
        ("owner_id", bob.user["id"]),
        ("id", bob.user["id"]),
        ("revision", 7),
        ("created_at", "2020-01-01T00:00:00Z"),
        ("deleted_at", None),
        ("metadata_", {}),
    ):
        answer = await ann.post(ITEMS, json={"name": "Milk", field: value})
        assert answer.status_code == 422
        assert answer.json()["errors"] == [
            {"loc": ["body", field], "code": "extra_forbidden",
             "detail": "Extra inputs are not permitted"}
        ]  # fmt: skip


async def test_if_match_guards_every_change(actors: Actors) -> None:
    ann = await actors("ann")
    address = (await ann.post(ITEMS, json={"name": "Milk"})).headers["Location"]
    await ann.patch(address, json={"quantity": 2})
    for method, body in (("PATCH", {"quantity": 3}), ("PUT", {"name": "x"}), ("DELETE", None)):
        for stale in ('"1"', 'W/"2"', '"1", "3"', "nonsense"):
            answer = await ann.request(method, address, json=body, headers={"If-Match": stale})
            assert answer.status_code == 412, stale
            assert answer.json()["code"] == "precondition_failed"
    assert (await ann.patch(address, json={}, headers={"If-Match": '"1", "2"'})).status_code == 200
    assert (await ann.delete(address, headers={"If-Match": "*"})).status_code == 204


async def test_if_none_match_saves_the_body(actors: Actors) -> None:
    ann = await actors("ann")
    address = (await ann.post(ITEMS, json={"name": "Milk"})).headers["Location"]
    same = await ann.get(address, headers={"If-None-Match": 'W/"1"'})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", '"1"')
    assert (await ann.get(address, headers={"If-None-Match": '"9"'})).status_code == 200


async def test_of_fifty_changes_of_one_revision_one_succeeds(actors: Actors) -> None:
    ann = await actors("ann")
    address = (await ann.post(ITEMS, json={"name": "Milk"})).headers["Location"]
    answers = await asyncio.gather(
        *(
            ann.patch(address, json={"quantity": number}, headers={"If-Match": '"1"'})
            for number in range(2, 52)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 49


async def test_fifty_changes_without_precondition_all_succeed(actors: Actors) -> None:
    ann = await actors("ann")
    address = (await ann.post(ITEMS, json={"name": "Milk"})).headers["Location"]
    answers = await asyncio.gather(
        *(ann.patch(address, json={"quantity": number}) for number in range(2, 52))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert (await ann.get(address)).json()["revision"] == 51


async def test_a_patch_names_what_it_changes(actors: Actors) -> None:
    ann = await actors("ann")
    address = (await ann.post(ITEMS, json={"name": "Milk", "description": "d"})).headers["Location"]
    assert (await ann.patch(address, json={"name": None})).status_code == 422
    assert (await ann.patch(address, json={"description": None})).json()["description"] is None
    unchanged = await ann.patch(address, json={})
    assert (unchanged.status_code, unchanged.json()["revision"]) == (200, 2)


async def test_a_new_item_whose_owner_is_being_changed_is_stored(
    actors: Actors, app: Ferrule
) -> None:
    """Each waits for the other, on PostgreSQL: for the owner's stream, and for the owner."""
    ann = await actors("ann")
    await ann.post(ITEMS, json={"name": "Milk"})
    id = UUID(ann.user["id"])
    async with app.kit[Database].write() as session:
        await session.execute(select(User.id).where(User.id == id).with_for_update())
        posting = asyncio.create_task(ann.post(ITEMS, json={"name": "Bread"}))
        await asyncio.sleep(0.3)
        assert not posting.done()
        session.emit(f"items/{id}", "told", {})
    assert (await posting).status_code == 201
    assert len((await ann.get(ITEMS)).json()["items"]) == 2
