"""Places in streams, as clients write them."""

from typing import Any

import pytest

from ferrule import Invalid
from ferrule.streams.position import MAX_OFFSET, Position


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0", Position(0)),
        ("41", Position(41)),
        (0, Position(0)),
        (41, Position(41)),
        ("041", Position(41)),
        ("k3:41", Position(41, "k3")),
        ("0:0", Position(0, "0")),
        (f"a1b2c3d4:{MAX_OFFSET}", Position(MAX_OFFSET, "a1b2c3d4")),
    ],
)
def test_places(text: Any, position: Position) -> None:
    assert Position.parse(text) == position
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "x", "-1", "+1", "1.0", " 1", "1 ", "1\n", "0x1", "1_0", "1e3", "\u0663", "²"),
        *(":41", "k3:", "k3:41:", ":k3:41", "a:b:1", "k-:1", "k 3:1", "é:1", "k\x00:1"),
        *(MAX_OFFSET + 1, str(MAX_OFFSET + 1), "9" * 41, "k" * 40 + ":1", 10**5000),
        *(-1, 1.0, True, False, None, b"1", [], {}, [1]),
    ],
    ids=range(37),
)
def test_what_is_no_place(text: Any) -> None:
    with pytest.raises(Invalid) as refused:
        Position.parse(text)
    assert [error["loc"] for error in refused.value.errors] == [["query", "since"]]
