"""The control stream: what is rechecked, when, and by whom."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, update

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.streams import ConnectionManager, connections, recheck
from ferrule.streams.channels import CONTROL
from ferrule.streams.control import Control
from ferrule.streams.hub import Hub
from ferrule.streams.log import EVENTS, STREAMS
from ferrule.testing import Actors, Disconnected, TestSocket
from tests.streams.boards import Boards, eventually, streams, subscribe, take_away, until


@pytest.fixture
def looked_at(app: Ferrule, monkeypatch: pytest.MonkeyPatch) -> list[UUID | None]:
    """Who was looked at again, in order; None stands for all."""
    seen: list[UUID | None] = []
    manager = app.kit[ConnectionManager]
    again = manager.recheck

    def noted(user_id: UUID | None = None) -> None:
        seen.append(user_id)
        again(user_id)

    monkeypatch.setattr(manager, "recheck", noted)
    return seen


async def test_after_the_commit_and_only_then(app: Ferrule, looked_at: list[UUID | None]) -> None:
    one, two = uuid4(), uuid4()
    with pytest.raises(RuntimeError):
        async with app.kit[Database].write() as session:
            recheck(session, one)
            raise RuntimeError
    async with app.kit[Database].write() as session:
        recheck(session, two)
        recheck(session, one)
        assert looked_at == []
    await eventually(lambda: len(looked_at) == 2)
    assert looked_at == [two, one]


async def test_w3_nothing_is_missed_where_the_stream_was_trimmed_or_begins_anew(
    app: Ferrule, looked_at: list[UUID | None], actors: Actors, boards: Boards
) -> None:
    """Whoever cannot be told who it was looks at all."""
    ann = await actors("ann")
    board = boards.new(ann)
    manager = app.kit[ConnectionManager]
    async with ann.socket() as socket:
        for statement in (
            update(STREAMS).where(STREAMS.c.name == CONTROL).values(top=500, floor=500),
            update(STREAMS).where(STREAMS.c.name == CONTROL).values(epoch="anew"),
            delete(STREAMS).where(STREAMS.c.name == CONTROL),
        ):
            boards.readers[UUID(board.partition("/")[2])].add(UUID(ann.user["id"]))
            other = uuid4()
            async with app.kit[Database].write() as session:
                recheck(session, other)
            await eventually(lambda other=other: other in looked_at)
            await eventually(lambda: app.kit[Hub]._rooms[CONTROL].live)
            await subscribe(socket, board)
            # Nobody else's look, as the one after she was made, is to find it out.
            await eventually(lambda: not manager._looking)
            looked_at.clear()
            boards.readers[UUID(board.partition("/")[2])].discard(UUID(ann.user["id"]))
            async with app.kit[Database].write() as session:
                await session.execute(statement)
            async with app.kit[Database].write() as session:
                recheck(session, uuid4())
            assert (await until(socket, "err"))["ch"] == board
            assert None in looked_at


async def test_w3_what_cannot_be_read_ends_no_watch(
    app: Ferrule, looked_at: list[UUID | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver, failed = Control.deliver, 0

    def fail(control: Control, *event: Any) -> bool:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise KeyError("user")
        return deliver(control, *event)

    monkeypatch.setattr(Control, "deliver", fail)
    async with app.kit[Database].write() as session:
        recheck(session, uuid4())
    await eventually(lambda: None in looked_at)
    await eventually(lambda: app.kit[Hub]._rooms[CONTROL].live)
    other = uuid4()
    async with app.kit[Database].write() as session:
        recheck(session, other)
    await eventually(lambda: other in looked_at)


async def test_w3_nobody_is_looked_at_before_the_watch_goes_on(
    app: Ferrule, looked_at: list[UUID | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told between the two would be known to nobody."""
    hub, go_on = app.kit[Hub], asyncio.Event()
    read = hub._rooms[CONTROL]._read

    async def later(stream: str, after: int, limit: int) -> Any:
        await go_on.wait()
        return await read(stream, after, limit)

    monkeypatch.setattr(hub, "read", later)
    (reader,) = hub._rooms[CONTROL].live
    reader.sink.broken()
    await eventually(lambda: CONTROL in hub._rooms and hub._rooms[CONTROL].joining)
    await asyncio.sleep(0.1)
    assert looked_at == []
    go_on.set()
    await eventually(lambda: None in looked_at)


async def test_a_command_beside_the_server_leaves_its_word(app: Ferrule, boards: Boards) -> None:
    other = boards.application()
    other.configure(app.settings)
    async with other.opened() as kit:
        async with kit[Database].write() as session:
            recheck(session, uuid4())
        async with kit[Database].read() as session:
            stream = select(STREAMS.c.id).where(STREAMS.c.name == CONTROL).scalar_subquery()
            assert await session.scalar(select(EVENTS.c.type).where(EVENTS.c.stream_id == stream))


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_w3_nobody_waits_for_a_busy_stream_of_others(app: Ferrule) -> None:
    # Of a name that comes after that of the control stream.
    busy = f"silent/{uuid4()}"
    async with app.kit[Database].write() as session:
        session.emit(busy, "told", {})
        recheck(session, uuid4())

    async def take_away_from(stream: str | None) -> None:
        async with app.kit[Database].write() as session:
            recheck(session, uuid4())
            if stream is not None:
                session.emit(stream, "told", {})

    async with app.kit[Database].write() as session:
        await session.execute(select(STREAMS).where(STREAMS.c.name == busy).with_for_update())
        waiting = asyncio.create_task(take_away_from(busy))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await asyncio.wait_for(take_away_from(None), 2)
    await waiting


@streams(subscriptions=20)
async def test_w3_many_connections_of_one_user_do_not_buy_time(
    app: Ferrule, actors: Actors, boards: Boards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cannot be looked at within a second has to connect again, and is looked at then."""
    monkeypatch.setattr(connections, "SOON", 0.1)
    ann = await actors("ann")
    channels = [boards.new(ann) for _ in range(20)]
    taken = channels[-1]
    sockets = [ann.socket("/api/v1/ws?ch=" + "&ch=".join(channels)) for _ in range(10)]

    async def slowly() -> None:
        await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        for socket in sockets:
            await stack.enter_async_context(socket)
            await until(socket, "live", ch=taken)
        boards.before_authorize = slowly
        await take_away(app.kit, boards, taken, ann)
        async with asyncio.timeout(2):
            told = [await _lost(socket) for socket in sockets]
        assert set(told) <= {taken, "4005"}
        assert "4005" in told
        boards.before_authorize = None
        async with ann.socket(f"/api/v1/ws?ch={taken}") as socket:
            assert (await until(socket, "err"))["code"] == "not_found"


async def _lost(socket: TestSocket) -> str:
    """The channel that was taken away, or the code of the end."""
    try:
        channel: str = (await until(socket, "err"))["ch"]
    except Disconnected as end:
        return str(end.code)
    return channel
