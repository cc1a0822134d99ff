"""The protocol of `/ws`, said by clients."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog.testing
from sqlalchemy import update
from sqlalchemy.exc import InvalidRequestError

from ferrule import Ferrule, Unavailable
from ferrule.db import Database
from ferrule.db.failures import OutcomeUnknown
from ferrule.streams import connections
from ferrule.streams.connections import TOGETHER, ConnectionManager
from ferrule.streams.log import STREAMS
from ferrule.streams.presence import Presence
from ferrule.testing import ActorClient, Actors, Disconnected, TestSocket
from tests.streams.boards import (
    Boards,
    emit,
    eventually,
    silent,
    streams,
    subscribe,
    until,
)

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""For what no database is asked."""


async def _closed(socket: TestSocket) -> int:
    """Read to the end; by which code it was closed."""
    with pytest.raises(Disconnected) as closed:
        while True:
            await socket.receive()
    return closed.value.code


def _offsets(said: list[Any]) -> list[int]:
    return [message["offset"] for message in said if message["t"] == "ev"]


# What is kept, and what happens


async def test_what_is_kept_comes_first_then_what_happens(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    await emit(app.kit, board, {"n": 1}, {"n": 2})
    async with ann.socket() as socket:
        hello = await socket.receive()
        assert hello.keys() == {"t", "conn", "ping", "max"}
        assert (hello["t"], hello["ping"], hello["max"]) == ("hello", 25, 65536)
        await socket.send({"id": 7, "t": "sub", "ch": board, "since": "0"})
        ok, *events, live = [await socket.receive() for _ in range(4)]
        epoch = ok["epoch"]
        assert ok == {"t": "ok", "id": 7, "ch": board, "epoch": epoch, "offset": 2}
        assert live == {"t": "live", "ch": board, "epoch": epoch, "offset": 2}
        assert await socket.receive() == {"t": "join", "ch": board, "who": ann.user["id"]}
        await socket.send({"t": "pub", "ch": board, "data": {"n": 3}})
        events.append(await until(socket, "ev"))
        assert [event.pop("at")[-1] for event in events] == ["Z"] * 3
        by = [None, None, ann.user["id"]]
        assert events == [
            {"t": "ev", "ch": board, "offset": n, "type": "note", "by": who, "data": {"n": n}}
            for n, who in enumerate(by, 1)
        ]
    async with ann.socket(f"/api/v1/ws?ch={board}&since={epoch}:2") as socket:
        said = [await socket.receive() for _ in range(4)]
        assert [message["t"] for message in said] == ["hello", "ok", "ev", "live"]
        del said[2]["at"]
        assert said[2] == events[2]


async def test_where_one_goes_on(app: Ferrule, actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    await emit(app.kit, board, 1, 2, 3)
    async with ann.socket() as socket:
        epoch = (await subscribe(socket, board))["epoch"]
        for since, offsets in (
            (None, []), ("0", [1, 2, 3]), (0, [1, 2, 3]), ("1", [2, 3]), (2, [3]), ("3", []),
            (f"{epoch}:0", [1, 2, 3]), (f"{epoch}:2", [3]), (f"{epoch}:3", []),
        ):  # fmt: skip
            await socket.send({"t": "sub", "ch": board, "since": since})
            said = [await socket.receive()]
            while said[-1]["t"] != "live":
                said.append(await socket.receive())
            assert _offsets(said) == offsets, since
            assert said[-1]["offset"] == 3
            assert [message["t"] for message in said] == ["ok", *["ev"] * len(offsets), "live"]
        await emit(app.kit, board, 4)
        assert (await until(socket, "ev"))["offset"] == 4
        assert await silent(socket) == []


@on_sqlite
async def test_garbage_is_no_place(actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    async with ann.socket() as socket:
        for since in (
            *("", ":", "x", "-1", "1.0", "+1", " 1", "1 ", "0x1", "1_0", "\u0663", ":41", "k3:"),
            *("k3:41:", "k-:1", "\xe9:1", "9" * 16, "k3:9007199254740993", "1" * 41),
            *(-1, 1.5, True, [], {}, [41]),
        ):
            await socket.send({"id": "a", "t": "sub", "ch": board, "since": since})
            error = await until(socket, "err")
            told = error["id"], error["code"], error["retry"]
            assert told == ("a", "validation_error", False), since
        assert await silent(socket) == []


async def test_a_stream_without_events_begins(app: Ferrule, actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    async with ann.socket() as socket:
        for since in (None, "0"):
            live = await subscribe(socket, board, since)
            assert live == {"t": "live", "ch": board, "epoch": None, "offset": 0}
        await emit(app.kit, board, "first")
        assert (await until(socket, "ev"))["offset"] == 1


async def test_several_channels_and_unsub(app: Ferrule, actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    one, two, mine = boards.new(ann), boards.new(ann), f"mine/{ann.user['id']}"
    async with ann.socket() as socket:
        for channel in (one, two, "mine"):
            await subscribe(socket, channel)
        for channel in (one, two, mine):
            await emit(app.kit, channel, channel)
        # Between streams there is no order.
        said = [await until(socket, "ev") for _ in range(3)]
        assert {message["ch"] for message in said} == {one, two, "mine"}
        await socket.send({"id": 1, "t": "unsub", "ch": one})
        assert await until(socket, "ok") == {"t": "ok", "id": 1, "ch": one}
        # Whoever is not subscribed is told the same.
        await socket.send({"id": 2, "t": "unsub", "ch": one})
        assert await until(socket, "ok") == {"t": "ok", "id": 2, "ch": one}
        for channel in (one, two):
            await emit(app.kit, channel, channel)
        assert (await until(socket, "ev"))["ch"] == two
        assert _offsets(await silent(socket)) == []
    await eventually(lambda: app.kit[ConnectionManager].counts().rooms == 0)


async def test_channels_in_the_address(app: Ferrule, actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    one, two = boards.new(ann), boards.new(ann)
    await emit(app.kit, one, 1, 2)
    await emit(app.kit, two, 1)
    other = boards.new()
    async with ann.socket(
        f"/api/v1/ws?ch={one}&since=1&ch={two}&since=x&ch={other}&since=0&ch={two}"
    ) as socket:
        bad = await until(socket, "err")
        assert (bad["ch"], bad["code"]) == (two, "validation_error")
        assert (await until(socket, "err"))["ch"] == other
        said = [await socket.receive()]
        while [message["t"] for message in said].count("live") < 2:
            said.append(await socket.receive())
        told = [
            (message["t"], message["ch"], message["offset"])
            for message in said
            if "offset" in message
        ]
        # The last one has no place of its own: it is live only.
        assert [each for each in told if each[1] == two] == [("ok", two, 1), ("live", two, 1)]
        expected = [("ok", one, 2), ("ev", one, 2), ("live", one, 2)]
        assert [each for each in told if each[1] == one] == expected


async def test_subscribing_again_is_one_subscription(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    async with ann.socket() as socket:
        for _ in range(3):
            await subscribe(socket, board)
        await emit(app.kit, board, 1)
        await emit(app.kit, board, 2)
        assert _offsets([await until(socket, "ev") for _ in range(2)]) == [1, 2]
        assert _offsets(await silent(socket)) == []
        await subscribe(socket, board, "0")
        await socket.send({"t": "unsub", "ch": board})
        await until(socket, "ok")
        await emit(app.kit, board, 3)
        assert await silent(socket) == []


# What clients say


REFUSED = [
    ({"t": "dance"}, "validation_error"),
    ({}, "validation_error"),
    ({"t": None}, "validation_error"),
    ({"t": ["sub"]}, "validation_error"),
    ({"t": "_sub"}, "validation_error"),
    ({"t": "sub"}, "validation_error"),
    ({"t": "sub", "ch": ""}, "validation_error"),
    ({"t": "sub", "ch": 7}, "validation_error"),
    ({"t": "sub", "ch": "b" * 201}, "validation_error"),
    ({"t": "sub", "ch": "boards"}, "not_found"),
    ({"t": "sub", "ch": "boards/"}, "not_found"),
    ({"t": "sub", "ch": "boards/7"}, "not_found"),
    ({"t": "sub", "ch": "boards/{upper}"}, "not_found"),
    ({"t": "sub", "ch": "boards/{hex}"}, "not_found"),
    ({"t": "sub", "ch": "{board}/"}, "not_found"),
    ({"t": "sub", "ch": "mine/{ann}"}, "not_found"),
    ({"t": "sub", "ch": "mine/"}, "not_found"),
    ({"t": "sub", "ch": "nothing/{id}"}, "not_found"),
    ({"t": "sub", "ch": "control/users"}, "not_found"),
    ({"t": "sub", "ch": "control/{id}"}, "not_found"),
    ({"t": "sub", "ch": "control"}, "not_found"),
    ({"t": "unsub"}, "validation_error"),
    ({"t": "pub", "data": 1}, "validation_error"),
    ({"t": "pub", "ch": "mine", "data": 1}, "forbidden"),
    ({"t": "pub", "ch": "silent/{id}", "data": 1}, "forbidden"),
    ({"t": "pub", "ch": "control/users", "data": 1}, "not_found"),
    ({"t": "pub", "ch": "{board}", "data": 1, "key": ""}, "validation_error"),
    ({"t": "pub", "ch": "{board}", "data": 1, "key": 7}, "validation_error"),
    ({"t": "pub", "ch": "{board}", "data": 1, "key": "k" * 201}, "validation_error"),
    ({"t": "pub", "ch": "{board}", "data": "fail"}, "internal_error"),
    ({"t": "pub", "ch": "{board}", "data": "x" * 50_000}, "validation_error"),
    ({"t": "signal", "ch": "{board}", "data": 1}, "forbidden"),
    ({"t": "presence", "ch": "{board}"}, "forbidden"),
    ({"t": "auth"}, "validation_error"),
    ({"t": "auth", "token": 7}, "validation_error"),
    ({"t": "auth", "token": "é"}, "validation_error"),
    ({"t": "auth", "token": "a\r\nX-Admin: 1"}, "validation_error"),
]


@on_sqlite
async def test_what_is_refused(actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    id = board.partition("/")[2]
    names = {"board": board, "id": id, "ann": ann.user["id"]}
    names |= {"upper": id.upper(), "hex": id.replace("-", "")}
    async with ann.socket() as socket:
        await socket.receive()
        for message, code in REFUSED:
            if isinstance(message.get("ch"), str):
                message = {**message, "ch": message["ch"].format(**names)}
            await socket.send({"id": 1, **message})
            error = await socket.receive()
            assert (error["t"], error["id"], error["code"]) == ("err", 1, code), message
            assert (error["retry"], bool(error["detail"])) == (False, True)
            assert "canary" not in str(error)
        await subscribe(socket, board)


@on_sqlite
async def test_signals_and_presence_are_for_subscribers_of_channels_that_have_them(
    actors: Actors, boards: Boards
) -> None:
    ann = await actors("ann")
    silent_one = f"silent/{boards.new(ann).partition('/')[2]}"
    async with ann.socket() as socket:
        await subscribe(socket, silent_one)
        for message in ({"t": "signal", "data": 1}, {"t": "presence"}):
            await socket.send({"id": 1, "ch": silent_one, **message})
            assert (await until(socket, "err"))["code"] == "forbidden"
        assert await silent(socket) == []


@on_sqlite
async def test_ids_are_echoed(actors: Actors) -> None:
    ann = await actors("ann")
    async with ann.socket() as socket:
        await socket.receive()
        for id, echoed in (
            (1, 1), (0, 0), ("", ""), ("a" * 64, "a" * 64), (None, None), (2**53, 2**53),
            ("a" * 65, None), (True, None), (1.5, None), ([], None), ({"a": 1}, None),
        ):  # fmt: skip
            for message, answered in (({"t": "ping"}, "pong"), ({"t": "dance"}, "err")):
                await socket.send({"id": id, **message})
                answer = await socket.receive()
                assert answer["t"] == answered
                assert answer.get("id") == echoed
                assert ("id" in answer) == (echoed is not None)
            await socket.send({"id": id, "t": "pong"})
        assert await silent(socket) == []


ENDS = [
    ("", 4501),
    ("{", 4501),
    ("null", 4501),
    ("[]", 4501),
    ('"sub"', 4501),
    ("7", 4501),
    ('{"t": "ping"} x', 4501),
    ('{"t": NaN}', 4501),
    ('{"t": "\\ud800"}', 4501),
    ('{"t": "\ud800"}', 4501),
    ('{"t": "a\\u0000"}', 4501),
    ('{"t": 1e999}', 4501),
    ('{"t": ' + "9" * 5000 + "}", 4501),
    ('{"t": ' + "[" * 33 + "]" * 33 + "}", 4501),
    ('{"t": ' + "[" * 30_000 + "]" * 30_000 + "}", 4501),
    ("x" * 65_537, 1009),
    ('{"t": "' + "é" * 40_000 + '"}', 1009),
]


@on_sqlite
async def test_what_ends_a_connection(actors: Actors) -> None:
    ann = await actors("ann")
    for text, code in ENDS:
        async with ann.socket() as socket:
            await socket.send(text)
            await socket.send({"t": "ping"})
            assert (await socket.receive())["t"] == "hello"
            assert await _closed(socket) == code, text[:50]


@on_sqlite
async def test_a_binary_frame_ends_it(actors: Actors) -> None:
    ann = await actors("ann")
    async with ann.socket() as socket:
        await socket._sent.put({"type": "websocket.receive", "bytes": b'{"t": "ping"}'})
        assert (await socket.receive())["t"] == "hello"
        assert await _closed(socket) == 4501


@streams(max_message=1024)
@on_sqlite
async def test_the_largest_message(actors: Actors) -> None:
    ann = await actors("ann")
    async with ann.socket() as socket:
        assert (await socket.receive())["max"] == 1024
        message = '{"id": 1, "t": "ping", "x": ""}'
        await socket.send(message.replace('""', '"' + "x" * (1024 - len(message)) + '"'))
        assert await socket.receive() == {"t": "pong", "id": 1}
        await socket.send(message.replace('""', '"' + "x" * (1025 - len(message)) + '"'))
        assert await _closed(socket) == 1009


@streams(rate=20, burst=5)
@on_sqlite
async def test_w4_too_many_messages_end_it(actors: Actors) -> None:
    ann = await actors("ann")
    async with ann.socket() as socket:
        await socket.receive()
        for _ in range(2):
            for _ in range(5):
                await socket.send({"t": "ping"})
            for _ in range(5):
                assert (await socket.receive())["t"] == "pong"
            await asyncio.sleep(0.3)
        for _ in range(50):
            await socket.send({"t": "ping"})
        assert await _closed(socket) == 4504
    async with ann.socket() as socket:
        await socket.receive()


@streams(subscriptions=3)
async def test_w4_subscriptions_are_limited(actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    channels = [boards.new(ann) for _ in range(4)]
    async with ann.socket() as socket:
        for channel in channels[:3]:
            await subscribe(socket, channel)
        await socket.send({"id": 1, "t": "sub", "ch": channels[3]})
        assert (await until(socket, "err"))["code"] == "forbidden"
        # What it has is not more.
        await subscribe(socket, channels[0], "0")
        await socket.send({"t": "unsub", "ch": channels[0]})
        await subscribe(socket, channels[3])


# What clients publish


async def test_what_is_published_is_told_and_answered(actors: Actors, boards: Boards) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with ann.socket() as anns, bob.socket() as bobs:
        await subscribe(bobs, board)
        # Whoever publishes need not read.
        message = {"id": 1, "t": "pub", "ch": board, "data": {"text": "Hello"}, "key": "k"}
        for _ in range(2):
            await anns.send(message)
            ok = await until(anns, "ok")
            assert ok == {"t": "ok", "id": 1, "ch": board, "data": {"number": 0}}
        event = await until(bobs, "ev")
        assert (event["data"], event["by"]) == ({"text": "Hello"}, ann.user["id"])
        await anns.send({**message, "key": "k2"})
        assert (await until(anns, "ok"))["data"] == {"number": 1}
        assert (await until(bobs, "ev"))["offset"] == 2
        await anns.send({"t": "pub", "ch": board})
        assert "id" not in await until(anns, "ok")
        assert (await until(bobs, "ev"))["data"] is None
        assert await silent(bobs) == []


@pytest.mark.parametrize("settings", [{"rate": 2.0, "burst": 10}])
async def test_w4_signals_of_all_connections_of_a_user_share_a_rate(
    actors: Actors, boards: Boards
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with ann.socket() as one, ann.socket() as other, bob.socket() as bobs:
        for socket in (bobs, one, other):
            await subscribe(socket, board)
        for socket in (one, other):
            await socket.send({"t": "signal", "ch": board, "data": 1})
            assert (await until(bobs, "signal"))["who"] == ann.user["id"]
        await other.send({"id": 4, "t": "signal", "ch": board, "data": 1})
        refused = await until(other, "err")
        assert (refused["code"], refused["retry"]) == ("too_many_requests", True)
        # Others have their own.
        await bobs.send({"t": "signal", "ch": board, "data": 2})
        assert (await until(one, "signal"))["data"] in (1, 2)


async def test_signals_reach_others_and_are_not_stored(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann, bob, cid = await actors("ann"), await actors("bob"), await actors("cid")
    board = boards.new(ann, bob, cid)
    sockets = (ann.socket(), ann.socket(), bob.socket(), cid.socket())
    async with sockets[0] as anns, sockets[1] as tab, sockets[2] as bobs, sockets[3] as elsewhere:
        for socket in (anns, tab, bobs):
            await subscribe(socket, board)
        for socket in (anns, tab, bobs, elsewhere):
            await silent(socket)
        await anns.send({"id": 1, "t": "signal", "ch": board, "data": {"typing": True}})
        told = {"t": "signal", "ch": board, "who": ann.user["id"], "data": {"typing": True}}
        assert [await bobs.receive(), await tab.receive()] == [told, told]
        # Nothing comes back, not even an answer.
        assert await silent(anns) == []
        assert await silent(elsewhere) == []
        await anns.send({"id": 2, "t": "signal", "ch": board, "data": "x" * 4094})
        assert len((await bobs.receive())["data"]) == 4094
        for data in ("x" * 4095, "\xe9" * 2100, ["x"] * 2000):
            await anns.send({"id": 3, "t": "signal", "ch": board, "data": data})
            assert (await until(anns, "err"))["code"] == "validation_error"
        await anns.send({"t": "signal", "ch": board})
        assert (await bobs.receive())["data"] is None
    page = await ann.get(f"/api/v1/streams/{board}")
    assert page.json()["items"] == []


async def test_who_is_there(app: Ferrule, actors: Actors, boards: Boards) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    here = sorted([ann.user["id"], bob.user["id"]])

    async def present(socket: TestSocket) -> Any:
        await socket.send({"id": 1, "t": "presence", "ch": board})
        told = await until(socket, "presence")
        assert (told["id"], told["ch"]) == (1, board)
        return told["who"]

    async with ann.socket() as anns:
        await subscribe(anns, board)
        assert await present(anns) == [ann.user["id"]]
        async with bob.socket() as first:
            await subscribe(first, board)
            joined = {"t": "join", "ch": board, "who": bob.user["id"]}
            assert await until(anns, "join", who=bob.user["id"]) == joined
            async with bob.socket() as second:
                await subscribe(second, board)
                assert await silent(anns) == []
                assert await present(second) == here
            # The other tab is still there.
            assert await silent(anns) == []
            assert await present(first) == here
            await first.send({"t": "unsub", "ch": board})
            assert await until(anns, "leave") == {**joined, "t": "leave"}
            assert await present(anns) == [ann.user["id"]]
            await subscribe(first, board)
            assert await until(anns, "join") == joined
        assert await until(anns, "leave") == {**joined, "t": "leave"}


async def test_subscribing_again_is_no_coming_and_going(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with ann.socket() as anns, bob.socket() as bobs:
        await subscribe(bobs, board)
        await subscribe(anns, board)
        for who in (ann, bob):
            assert who.user["id"] in app.kit[Presence].present(board)
        await asyncio.sleep(2 * TOGETHER)
        await silent(anns)
        changes: list[bool] = []
        app.kit[Presence].on_change(lambda channel, who, joined: changes.append(joined))
        await subscribe(bobs, board, "0")
        assert changes == []
        assert await silent(anns) == []


async def test_who_comes_and_goes_at_once_is_not_told_of(actors: Actors, boards: Boards) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with ann.socket() as anns, bob.socket() as bobs:
        await subscribe(anns, board)
        assert (await until(anns, "join"))["who"] == ann.user["id"]
        for _ in range(5):
            await bobs.send({"id": 1, "t": "sub", "ch": board})
            await until(bobs, "ok", id=1)
            await bobs.send({"id": 2, "t": "unsub", "ch": board})
            await until(bobs, "ok", id=2)
        await subscribe(bobs, board)
        assert (await until(anns, "join"))["who"] == bob.user["id"]
        assert await silent(anns) == []


async def test_every_sub_is_answered_once(actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    async with ann.socket() as socket:
        for number in range(1, 5):
            await socket.send({"id": number, "t": "sub", "ch": board})
        await socket.send({"id": 5, "t": "unsub", "ch": board})
        answers = [message for message in await silent(socket) if message["t"] in ("ok", "err")]
        assert [answer["id"] for answer in answers] == [1, 2, 3, 4, 5]
        refused = [answer["code"] for answer in answers if answer["t"] == "err"]
        assert refused
        assert set(refused) == {"conflict"}


# Resets, and readers that are slow


async def test_a_reader_behind_what_is_kept_is_told(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    await emit(app.kit, board, *range(1, 6))
    async with app.kit[Database].write() as session:
        await session.execute(update(STREAMS).where(STREAMS.c.name == board).values(floor=3))
    async with ann.socket() as socket:
        epoch = (await subscribe(socket, board))["epoch"]
        for since, reset in (
            ("2", 3), (f"{epoch}:2", 3), (f"{epoch}:0", 3), ("other:4", 3), ("other:9", 3),
            ("9", 5), (f"{epoch}:9", 5), ("3", None), (f"{epoch}:4", None), ("0", 3),
        ):  # fmt: skip
            await socket.send({"id": since, "t": "sub", "ch": board, "since": since})
            await until(socket, "ok", id=since)
            said = [await socket.receive()]
            while said[-1]["t"] != "live":
                said.append(await socket.receive())
            if reset is not None:
                assert said[0] == {"t": "reset", "ch": board, "epoch": epoch, "offset": reset}
            expected = range((reset or 3) + 1, 6) if since != f"{epoch}:4" else [5]
            assert _offsets(said) == list(expected), since
            kinds = ["reset"] * (reset is not None) + ["ev"] * len(expected) + ["live"]
            assert [message["t"] for message in said] == kinds


async def test_a_stream_that_begins_anew_while_it_is_read(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    await emit(app.kit, board, 1, 2)
    async with ann.socket() as socket:
        before = await subscribe(socket, board)
        async with app.kit[Database].write() as session:
            await session.execute(STREAMS.delete().where(STREAMS.c.name == board))
        await emit(app.kit, board, "anew")
        reset = await until(socket, "reset")
        assert reset["epoch"] != before["epoch"]
        event = await until(socket, "ev")
        assert (event["offset"], event["data"]) == (1, "anew")
        assert (await until(socket, "live"))["offset"] == 1


class Slow(TestSocket):
    """A client that reads nothing while it does not ask."""

    async def __aenter__(self) -> "Slow":
        self._received = asyncio.Queue(1)
        return await super().__aenter__()

    async def _end(self) -> None:
        reading = asyncio.create_task(self._read_on())
        try:
            await super()._end()
        finally:
            reading.cancel()

    async def _read_on(self) -> None:
        while True:
            await self._received.get()


def _slow(who: ActorClient) -> Slow:
    return Slow(who.app, "/api/v1/ws", {"authorization": who.headers["authorization"]})


@streams(backlog=20_000)
async def test_w4_a_slow_reader_gets_it_from_the_log(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    async with _slow(ann) as slow, bob.socket() as bobs:
        await subscribe(slow, board)
        await subscribe(bobs, board)
        (connection,) = [
            peer
            for peer in app.kit[ConnectionManager]._peers.values()
            if str(peer.actor.id) == ann.user["id"]
        ]
        for number in range(60):
            await emit(app.kit, board, *[{"n": number, "x": "x" * 2000}] * 5)
        assert connection._kept_bytes <= 20_000 + 5_000  # type: ignore[attr-defined]
        assert connection._wire.buffered <= 80_000  # type: ignore[attr-defined]
        # Nobody else waits for it.
        assert _offsets([await until(bobs, "ev") for _ in range(300)]) == list(range(1, 301))
        got = [await until(slow, "ev") for _ in range(300)]
        assert _offsets(got) == list(range(1, 301))
        assert connection._kept_bytes == 0  # type: ignore[attr-defined]
        await emit(app.kit, board, "at last")
        assert (await until(slow, "ev"))["data"] == "at last"


@streams(backlog=2_000, stalled=0.2)
@on_sqlite
async def test_w4_a_reader_that_is_stuck_is_closed(
    app: Ferrule, actors: Actors, boards: Boards, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = app.kit[ConnectionManager]
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    monkeypatch.setattr(connections, "TICK", 0.05)
    async with _slow(ann) as slow, bob.socket() as bobs:
        await subscribe(slow, board)
        await subscribe(bobs, board)
        for _ in range(100):
            await emit(app.kit, board, "x" * 1000)
        stuck = [peer for peer in manager._peers.values() if str(peer.actor.id) == ann.user["id"]]
        await eventually(lambda: stuck[0].code is not None)  # type: ignore[attr-defined]
        assert stuck[0].code == 4008  # type: ignore[attr-defined]
        assert _offsets([await until(bobs, "ev") for _ in range(100)]) == list(range(1, 101))
        await eventually(lambda: manager.counts().connections == 1)


@streams(stalled=5)
@on_sqlite
async def test_a_reader_that_takes_little_is_not_stuck(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    manager = app.kit[ConnectionManager]
    ann = await actors("ann")
    board = boards.new(ann)
    async with _slow(ann) as slow:
        await subscribe(slow, board)
        for _ in range(100):
            await emit(app.kit, board, "x" * 1000)
        connection: Any = next(iter(manager._peers.values()))
        await eventually(lambda: connection._stuck_since)
        now = connection._stuck_since
        for seconds, waiting in ((1, 900), (4, 800), (8, 700), (12, 700)):
            connection._wire.buffered = waiting
            connection.tick(now + seconds)
            assert connection.code is None
        connection.tick(now + 13.1)
        assert connection.code == 4008


# Time


@streams(ping=0.3)
@on_sqlite
async def test_signs_of_life_are_sent(
    app: Ferrule, actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TICK", 0.02)
    ann = await actors("ann")
    async with ann.socket() as socket:
        assert (await socket.receive())["ping"] == 0.3
        for _ in range(3):
            assert await socket.receive() == {"t": "ping"}
            await socket.send({"t": "pong"})
        assert await silent(socket) == []


@on_sqlite
async def test_w3_a_token_that_expires_ends_it(
    app: Ferrule, actors: Actors, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TICK", 0.1)
    ann = await actors("ann")
    soon = {"authorization": f"Bearer {token(ann, ttl=2)}"}
    async with ann.socket(headers=soon) as socket, ann.socket(headers=soon) as renewed:
        await renewed.send({"id": 1, "t": "auth", "token": token(ann, ttl=600)})
        assert await until(renewed, "ok") == {"t": "ok", "id": 1}
        assert await _closed(socket) == 4005
        assert await silent(renewed) == []


async def test_w3_who_shows_a_token_that_is_not_theirs_is_sent_away(
    actors: Actors, token: Callable[..., str]
) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    for shown in (token(bob), "a.b.c", "", token(ann, ttl=-5), token(ann, kind="refresh")):
        async with ann.socket() as socket:
            await socket.send({"t": "auth", "token": shown})
            assert await _closed(socket) == 4502


async def test_an_author_who_fails_harms_nobody_else(actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)

    def fail() -> None:
        raise RuntimeError("canary7f3a")

    async with ann.socket() as socket:
        boards.before_authorize = fail
        await socket.send({"id": 1, "t": "sub", "ch": board})
        error = await until(socket, "err")
        assert (error["code"], error["retry"]) == ("internal_error", False)
        assert "canary" not in json.dumps(error)

        def busy() -> None:
            raise Unavailable

        boards.before_authorize = busy
        await socket.send({"id": 1, "t": "sub", "ch": board})
        error = await until(socket, "err")
        assert (error["code"], error["retry"]) == ("unavailable", True)

        def unknown() -> None:
            raise OutcomeUnknown

        # A client that tried again could do it twice.
        boards.before_authorize = unknown
        await socket.send({"id": 1, "t": "sub", "ch": board})
        error = await until(socket, "err")
        assert (error["code"], error["retry"]) == ("outcome_unknown", False)

        def defect() -> None:
            raise InvalidRequestError

        with structlog.testing.capture_logs() as lines:
            boards.before_authorize = defect
            await socket.send({"id": 1, "t": "sub", "ch": board})
            error = await until(socket, "err")
        assert (error["code"], error["retry"]) == ("internal_error", False)
        assert [line["event"] for line in lines if line["log_level"] == "error"] == [
            "a message failed"
        ]
        boards.before_authorize = None
        await subscribe(socket, board)
