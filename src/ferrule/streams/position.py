"""A reader's place in a stream."""

from dataclasses import dataclass
from typing import Self

from ferrule.errors import Invalid

MAX_OFFSET = 2**53
_MEANT = "since is an offset, or epoch:offset, as events and answers have them."


@dataclass(frozen=True, slots=True)
class Position:
    """After this offset. Without an epoch, of whatever stream has the name now."""

    offset: int
    epoch: str | None = None

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `[epoch:]offset`; `Invalid` for anything else."""
        if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= MAX_OFFSET:
            text = str(text)
        if not isinstance(text, str) or len(text) > 40:
            raise _invalid()
        epoch, colon, offset = text.rpartition(":")
        if not (offset.isascii() and offset.isdigit()) or bool(colon) != bool(epoch):
            raise _invalid()
        number = int(offset)
        if number > MAX_OFFSET or not (epoch.isascii() and (epoch.isalnum() or not epoch)):
            raise _invalid()
        return cls(number, epoch or None)

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}" if self.epoch else str(self.offset)


def _invalid() -> Invalid:
    return Invalid.field("query", "since", code="bad_position", detail=_MEANT)
