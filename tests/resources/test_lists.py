"""Lists: filters, search, sort, and three ways of paging, alike on both databases."""

from typing import Any

import pytest
import pytest_asyncio

from ferrule.testing import ActorClient, Actors

ITEMS = "/api/v1/items"

ROWS: list[dict[str, Any]] = [
    {"name": "apple", "price": "1.00", "quantity": 3, "status": "open"},
    {"name": "Banana", "price": None, "quantity": 1, "status": "open"},
    {"name": "Éclair", "price": "10.00", "quantity": 2, "status": "done"},
    {"name": "50% off", "price": "9.50", "quantity": 2, "description": "ÄPFEL_und"},
    {"name": "zebra", "price": None, "quantity": 9, "status": "done"},
]


@pytest_asyncio.fixture
async def ann(actors: Actors) -> ActorClient:
    ann = await actors("ann")
    bob = await actors("bob")
    for row in ROWS:
        assert (await ann.post(ITEMS, json=row)).status_code == 201
    await bob.post(ITEMS, json={"name": "not Ann's"})
    return ann


async def names(client: ActorClient, **params: Any) -> list[str]:
    answer = await client.get(ITEMS, params=params)
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


async def test_without_asking_the_newest_come_first(ann: ActorClient) -> None:
    assert await names(ann) == [row["name"] for row in reversed(ROWS)]
    body = (await ann.get(ITEMS)).json()
    assert body["pagination"] == {"limit": 50, "offset": 0, "page": 1, "total": 5, "next": None}


async def test_text_sorts_by_code_point_and_null_is_greatest(ann: ActorClient) -> None:
    assert await names(ann, sort="name") == ["50% off", "Banana", "apple", "zebra", "Éclair"]
    assert await names(ann, sort="price") == ["apple", "50% off", "Éclair", "Banana", "zebra"]
    assert await names(ann, sort="-price") == ["zebra", "Banana", "Éclair", "50% off", "apple"]
    assert await names(ann, sort="quantity,-name") == [
        "Banana", "Éclair", "50% off", "apple", "zebra",
    ]  # fmt: skip


async def test_filters_combine(ann: ActorClient) -> None:
    assert await names(ann, status="open") == ["Banana", "apple"]
    assert await names(ann, price__gte="9.50", price__lte="9.5") == ["50% off"]
    assert await names(ann, status="done", quantity__gte=3) == ["zebra"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("APP", ["apple"]),
        ("éclair", ["Éclair"]),
        ("äpfel", ["50% off"]),
        ("0%", ["50% off"]),
        ("%", ["50% off"]),
        ("_", ["50% off"]),
        ("a%e", []),
        ("/", []),
        ("\\", []),
        ("' OR 1=1 --", []),
    ],
)
async def test_search_is_literal_and_knows_no_case(
    ann: ActorClient, search: str, found: list[str]
) -> None:
    assert await names(ann, search=search) == found


@pytest.mark.parametrize("sort", ["name", "-name", "price", "-price", "status,-price", "-quantity"])
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_cursors_walk_the_whole_list_once(ann: ActorClient, sort: str, limit: int) -> None:
    whole = await names(ann, sort=sort)
    walked: list[str] = []
    params: dict[str, Any] = {"sort": sort, "limit": limit}
    pages = 0
    while True:
        body = (await ann.get(ITEMS, params=params)).json()
        walked += [item["name"] for item in body["items"]]
        pages += 1
        if body["pagination"]["next"] is None:
            break
        params["cursor"] = body["pagination"]["next"]
        assert pages < 10
    assert walked == whole
    assert body["pagination"]["total"] == (5 if pages == 1 else None)


async def test_a_cursor_stays_right_while_rows_come_and_go(ann: ActorClient) -> None:
    first = (await ann.get(ITEMS, params={"limit": 2})).json()
    await ann.post(ITEMS, json={"name": "new"})
    await ann.delete(f"{ITEMS}/{first['items'][1]['id']}")
    cursor = first["pagination"]["next"]
    assert await names(ann, limit=2, cursor=cursor) == ["Éclair", "Banana"]
    counted = (await ann.get(ITEMS, params={"cursor": cursor, "count": "true"})).json()
    assert counted["pagination"]["total"] == 5
    assert counted["pagination"]["offset"] is None


async def test_pages_and_offsets(ann: ActorClient) -> None:
    body = (await ann.get(ITEMS, params={"limit": 2, "page": 2})).json()
    assert [item["name"] for item in body["items"]] == ["Éclair", "Banana"]
    assert body["pagination"]["offset"] == 2
    assert body["pagination"]["page"] == 2
    assert await names(ann, limit=2, offset=4) == ["apple"]
    assert await names(ann, offset=100) == []
    assert await names(ann, page=10**12, limit=100) == []
    uncounted = (await ann.get(ITEMS, params={"count": "false"})).json()
    assert uncounted["pagination"]["total"] is None


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": 101},
        {"limit": "x"},
        {"offset": -1},
        {"offset": 2**63},
        {"page": 0},
        {"page": 2**63},
        {"offset": 1, "page": 1},
        {"sort": "owner_id"},
        {"sort": "name;drop table items"},
        {"sort": ""},
        {"search": ""},
        {"search": "x" * 201},
        {"price__gte": "NaN"},
        {"price__gte": "1e400"},
        {"quantity__gte": 2**63},
        {"stauts": "open"},
        {"owner_id": "x"},
        {"cursor": "x"},
        {"cursor": "é"},
    ],
)
async def test_what_a_list_cannot_answer_is_refused(
    ann: ActorClient, params: dict[str, Any]
) -> None:
    answer = await ann.get(ITEMS, params=params)
    assert answer.status_code == 422
    assert answer.json()["errors"]
    assert answer.json()["errors"][0]["loc"][0] == "query"


async def test_a_cursor_is_worth_nothing_elsewhere(ann: ActorClient) -> None:
    cursor = (await ann.get(ITEMS, params={"limit": 1})).json()["pagination"]["next"]
    for params in (
        {"cursor": cursor, "sort": "name"},
        {"cursor": cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")},
    ):
        assert (await ann.get(ITEMS, params=params)).status_code == 422
