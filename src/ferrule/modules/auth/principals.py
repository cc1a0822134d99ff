"""Whom an access token stands for, remembered for less than a second.

Verifying a token and looking its user up takes longer than all the rest of a request. What ends a
login acts at once in the process that did it, and within a second in every other, whatever the bus
does: an entry is older than that in none.
"""

import time
from dataclasses import dataclass
from uuid import UUID

from ferrule.actor import Actor
from ferrule.db import WriteSession
from ferrule.streams.control import recheck

MAX_AGE = 0.9
"""Seconds from the beginning of a look-up in which its answer is used."""
MAX_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    """An actor, the end of the token that named it, and when the database was asked."""

    actor: Actor
    expires_at: float
    asked_at: float


class Principals:
    """Principals by token, used for a moment; the oldest make room for new ones."""

    def __init__(self) -> None:
        self._known: dict[str, Principal] = {}
        self._forgotten = 0

    def find(self, token: str) -> Actor | None:
        """Who the token stands for, if that was looked up a moment ago."""
        known = self._known.get(token)
        if known is None:
            return None
        if time.monotonic() - known.asked_at > MAX_AGE or time.time() >= known.expires_at:
            del self._known[token]
            return None
        return known.actor

    def mark(self) -> tuple[int, float]:
        """To be taken before a look-up, and handed to `remember` after it."""
        return self._forgotten, time.monotonic()

    def remember(
        self, token: str, actor: Actor, expires_at: float, mark: tuple[int, float]
    ) -> None:
        """Keep the answer of a look-up, unless somebody was forgotten meanwhile."""
        forgotten, asked_at = mark
        if forgotten != self._forgotten:
            return
        if len(self._known) >= MAX_TOKENS:
            del self._known[next(iter(self._known))]
        self._known[token] = Principal(actor, expires_at, asked_at)

    def forget(self, user_id: UUID) -> None:
        """Let every token of a user be looked up again."""
        self._forgotten += 1
        self._known = {
            token: known for token, known in self._known.items() if known.actor.id != user_id
        }


def forget(session: WriteSession, user_id: UUID) -> None:
    """Forget a user's principals once this is committed: something they may do has changed.

    Their live connections are looked at again, too, on every node.
    """
    recheck(session, user_id)
    if Principals not in session.kit:
        # A command beside the server; its cache is too young to matter.
        return

    async def committed() -> None:
        session.kit[Principals].forget(user_id)

    session.after_commit(committed)
