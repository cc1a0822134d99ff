"""Kinds of streams: how they are declared, and what names mean."""

from typing import Any
from uuid import UUID

import pytest

from ferrule import Actor, ConfigurationError, Ferrule, Module, NotFound, create_app
from ferrule.db import Database
from ferrule.modules import auth
from ferrule.streams import Channel
from ferrule.streams.channels import Channels
from ferrule.testing import Actors
from tests.streams.boards import Boards

ID = "01a1ff87-fd4b-7b2f-ba47-4e0fd8d02cbb"
ANN = Actor(kind="user", id=UUID(int=7))


async def _anybody(*_: Any) -> None:
    """Everything may be read."""


CHANNELS = Channels(
    (
        Channel(kind="boards", authorize=_anybody),
        Channel(kind="mine", personal=True),
        Channel(kind="inner"),
    )
)


def test_what_names_mean() -> None:
    board = CHANNELS.target(f"boards/{ID}", ANN)
    assert (board.name, board.stream, board.id) == (f"boards/{ID}",) * 2 + (UUID(ID),)
    mine = CHANNELS.target("mine", ANN)
    assert (mine.name, mine.stream, mine.id) == ("mine", f"mine/{ANN.id}", ANN.id)
    assert CHANNELS.name(mine.stream) == "mine"
    assert CHANNELS.name(board.stream) == board.name
    assert [each.kind for each in CHANNELS] == ["boards", "mine", "inner"]
    assert "mine" in CHANNELS
    assert "other" not in CHANNELS


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "boards", "boards/", f"/{ID}", f"boards/{ID}/", f"boards//{ID}", "boards/x"),
        *(f"boards/{ID.upper()}", f"boards/{{{ID}}}", f"boards/urn:uuid:{ID}", f"boards/ {ID}"),
        *(f"boards/{ID.replace('-', '')}", f"Boards/{ID}", f"boards/{ID}\n", f"boards/{ID}\x00"),
        *("mine/", f"mine/{ANN.id}", f"mine/{ID}", f"inner/{ID}", "inner", f"other/{ID}"),
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(NotFound) as refused:
        CHANNELS.target(name, ANN)
    assert refused.value.detail == "There is no such channel."


@pytest.mark.parametrize("kind", ["", "a/b", "a\nb", "a" * 51])
def test_what_is_no_kind(kind: str) -> None:
    with pytest.raises(ConfigurationError, match="no name for a channel"):
        Channel(kind=kind)


@pytest.mark.parametrize(
    "more", [{"authorize": _anybody}, {"publish": _anybody}, {"signals": True}, {"presence": True}]
)
def test_a_personal_channel_has_one_reader(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="personal"):
        Channel(kind="mine", personal=True, **more)


def test_a_kind_is_declared_once() -> None:
    one, two = (
        Module(name=name, channels=(Channel(kind="boards", authorize=_anybody),))
        for name in ("one", "two")
    )
    with pytest.raises(ConfigurationError, match="'boards' is declared twice"):
        create_app(modules=[auth.module, one, two])
    taken = Module(name="taken", channels=(Channel(kind="control"),))
    with pytest.raises(ConfigurationError, match="'control' is declared twice"):
        create_app(modules=[auth.module, taken])


async def test_what_nobody_declares_is_not_emitted(
    app: Ferrule, actors: Actors, boards: Boards
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    for stream, type, error in (
        ("other/1", "note", ConfigurationError),
        (board, "", ValueError),
        (board, "t" * 101, ValueError),
        ("boards/" + "x" * 200, "note", ValueError),
    ):
        with pytest.raises(error):
            async with app.kit[Database].write() as session:
                session.emit(stream, type, 1)
    assert (await ann.get(f"/api/v1/streams/{board}")).json()["items"] == []
