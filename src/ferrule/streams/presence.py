"""Who is on which channel, on all nodes: told from node to node, kept in memory only."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from pydantic_core import from_json, to_json

from ferrule.streams.node import Node

KIND = "presence"
MAX_BODY = 32 * 1024
ASK_AGAIN = 1.0
"""Seconds after which a node that has not answered is asked again."""
TOGETHER = 0.05
"""Seconds that an answer waits for others who ask the same."""

Entry = tuple[str, str]
"""A channel and the id of a user."""

log = structlog.get_logger("ferrule.streams")


@dataclass
class _Peer:
    """What another node has told. Its changes are numbered; `number` is None after a gap."""

    number: int | None = 0
    entries: set[Entry] = field(default_factory=set[Entry])
    parts: list[set[Entry]] = field(default_factory=list[set[Entry]])
    snapshot: int = 0
    asked: float = 0.0


class Presence:
    """Who is on which channel, as far as this node has heard.

    Each node tells the changes of its own users, numbered. Who misses one asks for all of them,
    and until then keeps to what it knew. The users of a node that is gone leave.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._number = 0
        self._here: dict[str, Counter[str]] = {}
        self._peers: dict[str, _Peer] = {}
        # On how many nodes a user is, this one included.
        self._present: dict[str, Counter[str]] = {}
        self._changed: dict[Entry, bool] = {}
        self._answering = False
        self._calls: list[Callable[[str, str, bool], None]] = []
        node.on(KIND, self._hear)
        node.on_heard(lambda: self._tell("ask"))
        node.on_gone(self._forget)
        node.on_beat(self._count)

    def on_change(self, call: Callable[[str, str, bool], None]) -> None:
        """Have `call(channel, user id, joined)` called when a user joins or leaves a channel.

        With the first connection on any node, and with the last one on all of them.
        """
        self._calls.append(call)

    def enter(self, channel: str, user_id: str) -> bool:
        """Count a connection of this node in; whether its user has joined the channel by it."""
        here = self._here.setdefault(channel, Counter())
        here[user_id] += 1
        if here[user_id] > 1:
            return False
        self._note((channel, user_id), True)
        return self._join((channel, user_id))

    def leave(self, channel: str, user_id: str) -> bool:
        """Count a connection of this node out; whether its user has left the channel by it."""
        here = self._here.get(channel)
        if not here or user_id not in here:
            return False
        if not _take_one(self._here, channel, user_id):
            return False
        self._note((channel, user_id), False)
        return self._part((channel, user_id))

    def present(self, channel: str) -> list[str]:
        """The ids of the users who are there, on all nodes, in order."""
        return sorted(self._present.get(channel, ()))

    # Who is where.

    def _join(self, entry: Entry) -> bool:
        channel, user_id = entry
        present = self._present.setdefault(channel, Counter())
        present[user_id] += 1
        joined = present[user_id] == 1
        if joined:
            self._say(entry, True)
        return joined

    def _part(self, entry: Entry) -> bool:
        left = _take_one(self._present, *entry)
        if left:
            self._say(entry, False)
        return left

    def _say(self, entry: Entry, joined: bool) -> None:
        for call in self._calls:
            try:
                call(*entry, joined)
            except Exception as error:
                log.error("a change of presence was not taken", exc_info=error)

    # What this node tells.

    def _note(self, entry: Entry, joined: bool) -> None:
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._tell_changes)
        # Who comes and goes in one turn has not been there.
        if self._changed.pop(entry, None) is None:
            self._changed[entry] = joined

    def _tell_changes(self) -> None:
        changes, self._changed = self._changed, {}
        for body in _bodies((*entry, joined) for entry, joined in changes.items()):
            self._number += 1
            self._tell("changes", body, number=self._number)

    def _count(self) -> None:
        if self._number:
            self._tell("count", number=self._number)

    def _answer(self) -> None:
        self._answering = False
        self._tell_changes()
        here = ((channel, user) for channel, users in self._here.items() for user in users)
        bodies = list(_bodies(here)) or [b"[]"]
        for place, body in enumerate(bodies):
            self._tell("all", body, number=self._number, place=place, of=len(bodies))

    def _tell(self, what: str, body: bytes = b"", **head: Any) -> None:
        self._node.tell(KIND, b"%b\n%b" % (to_json({"what": what, **head}), body))

    # What other nodes tell.

    def _hear(self, id: str, message: bytes) -> None:
        line, _, body = message.partition(b"\n")
        head = from_json(line)
        what: Literal["ask", "changes", "count", "all"] = head["what"]
        if what == "ask":
            self._asked(head.get("node"))
            return
        peer = self._peers.setdefault(id, _Peer())
        if what == "changes":
            self._hear_changes(id, peer, head["number"], body)
        elif what == "all":
            self._hear_all(peer, head["number"], head["place"], head["of"], body)
        elif what == "count" and peer.number != head["number"]:
            self._missed(id, peer)

    def _asked(self, node: str | None) -> None:
        if node in (None, self._node.id) and not self._answering:
            self._answering = True
            asyncio.get_running_loop().call_later(TOGETHER, self._answer)

    def _hear_changes(self, id: str, peer: _Peer, number: int, body: bytes) -> None:
        if peer.number is None or number != peer.number + 1:
            self._missed(id, peer)
            return
        peer.number = number
        for channel, user, joined in from_json(body):
            entry = (channel, user)
            if joined and entry not in peer.entries:
                peer.entries.add(entry)
                self._join(entry)
            elif not joined and entry in peer.entries:
                peer.entries.remove(entry)
                self._part(entry)

    def _missed(self, id: str, peer: _Peer) -> None:
        peer.number = None
        if time.monotonic() - peer.asked > ASK_AGAIN:
            peer.asked = time.monotonic()
            self._tell("ask", node=id)

    def _hear_all(self, peer: _Peer, number: int, place: int, of: int, body: bytes) -> None:
        if peer.number == number:
            return
        if place == 0:
            peer.parts, peer.snapshot = [], number
        if place != len(peer.parts) or number != peer.snapshot:
            return
        peer.parts.append({(channel, user) for channel, user in from_json(body)})
        if len(peer.parts) == of:
            self._replace(peer, set[Entry]().union(*peer.parts))
            peer.number, peer.parts = number, []

    def _replace(self, peer: _Peer, entries: set[Entry]) -> None:
        before, peer.entries = peer.entries, entries
        for entry in sorted(entries - before):
            self._join(entry)
        for entry in sorted(before - entries):
            self._part(entry)

    def _forget(self, id: str) -> None:
        peer = self._peers.pop(id, None)
        if peer is not None:
            self._replace(peer, set())


def _take_one(counts: dict[str, Counter[str]], channel: str, user_id: str) -> bool:
    """Count one less; whether it was the last. What is at zero is not kept."""
    users = counts[channel]
    users[user_id] -= 1
    if users[user_id]:
        return False
    del users[user_id]
    if not users:
        del counts[channel]
    return True


def _bodies(entries: Iterable[tuple[Any, ...]]) -> Iterator[bytes]:
    """The entries as JSON arrays of a bounded size."""
    parts: list[bytes] = []
    size = 0
    for part in map(to_json, entries):
        if parts and size + len(part) > MAX_BODY:
            yield b"[%b]" % b",".join(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield b"[%b]" % b",".join(parts)
