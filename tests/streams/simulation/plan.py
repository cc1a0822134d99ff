"""How bad a world is."""

from dataclasses import dataclass

from ferrule.streams.hub import COMPARE, LOOK
from ferrule.streams.room import AGAIN

SOON = 1.0
"""Seconds in which everybody has everything while nothing fails."""
HEALED = COMPARE + LOOK + AGAIN + 2 * SOON
"""The same when something was lost on the way."""


@dataclass(frozen=True)
class Plan:
    """How bad a world is: how often each thing goes wrong."""

    lost: float = 0.0
    """Of the messages on the bus."""
    doubled: float = 0.0
    late: float = 0.0
    """Up to so many seconds on the bus."""
    failing: float = 0.0
    """Of the reads of the database."""
    unannounced: float = 0.0
    """Of the commits, whose process has no time left to tell of them."""
    deaf: bool = False
    kills: bool = False
    cuts: bool = True
    stalls: bool = True
    trims: bool = True
    removals: bool = True

    @property
    def within(self) -> float:
        """Seconds after which everybody has everything."""
        loses = self.lost or self.failing or self.unannounced or self.deaf or self.kills
        # What comes late may speak of a stream that was replaced meanwhile.
        loses = loses or (self.late and self.removals)
        return HEALED if loses else SOON + self.late
