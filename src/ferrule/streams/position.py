"""A reader's place in a stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ferrule.errors import Invalid

MAX_OFFSET = 2**53
_MEANT = "A place is an offset, or epoch:offset, as events and answers have them."


@dataclass(frozen=True, slots=True)
class Position:
    """After this offset. Without an epoch, of whatever stream has the name now."""

    offset: int
    epoch: str | None = None

    @classmethod
    def parse(cls, text: object, loc: Sequence[str] = ("query", "since")) -> Self:
        """Read `[epoch:]offset`; `Invalid` for anything else, which stood at `loc`."""
        if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= MAX_OFFSET:
            text = str(text)
        if not isinstance(text, str) or len(text) > 40:
            raise _invalid(loc)
        epoch, colon, offset = text.rpartition(":")
        if not (offset.isascii() and offset.isdigit()) or bool(colon) != bool(epoch):
            raise _invalid(loc)
        number = int(offset)
        if number > MAX_OFFSET or not (epoch.isascii() and (epoch.isalnum() or not epoch)):
            raise _invalid(loc)
        return cls(number, epoch or None)

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}" if self.epoch else str(self.offset)


def _invalid(loc: Sequence[str]) -> Invalid:
    return Invalid.field(*loc, code="bad_position", detail=_MEANT)
