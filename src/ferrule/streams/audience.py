"""Who is sent the same messages, and how one of these reaches them all at once.

Beside the system call, what a message costs for each reader is where its things lie in memory: on
the way through reader, connection, wire and transport each is fetched anew. So an audience keeps
the `write`s of its members' transports side by side, for as long as nothing changes about them.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import structlog

from ferrule.streams.wire import FrameWire, Message

Member = TypeVar("Member")
Write = Callable[[bytes], None]

log = structlog.get_logger("ferrule.streams")


class Audience(Generic[Member]):
    """Members in the order in which they came, some with a wire that may be written to directly."""

    def __init__(self) -> None:
        self._members: dict[Member, FrameWire | None] = {}
        self._divided = True
        """Whether the three below are as members and wires are now."""
        self._direct: list[Member] = []
        self._writes: list[Write] = []
        self._others: list[Member] = []

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __contains__(self, member: Member) -> bool:
        return member in self._members

    def add(self, member: Member, wire: FrameWire | None) -> None:
        """Let somebody take part. Frames go into the wire while it flows; None: never."""
        self.discard(member)
        self._members[member] = wire
        if wire is not None:
            wire.audiences.append(self)
        self.changed()

    def discard(self, member: Member) -> None:
        """Forget somebody, by identity."""
        if member in self._members:
            wire = self._members.pop(member)
            if wire is not None:
                wire.audiences.remove(self)
            self.changed()

    def changed(self) -> None:
        """A member came or left; a wire began to flow, or stopped.

        It may be called amid `send`, which goes on over the lists of before: so these are replaced.
        """
        if self._divided:
            self._divided = False
            self._direct, self._writes, self._others = [], [], []

    def send(
        self, message: Message, otherwise: Callable[[Member], bool], but: Member | None = None
    ) -> list[Member]:
        """Send a message to all of them: directly, then by `otherwise` to those whose wire does not
        flow, or who have none.

        Returns who did not take it, by what `otherwise` says or because writing raised.
        """
        if not self._divided:
            self._divide()
        direct, writes, others = self._direct, self._writes, self._others
        if but is not None and but in self._members:
            if but in others:
                others = [member for member in others if member is not but]
            else:
                writes = writes.copy()
                writes[direct.index(but)] = _skip
        frame = message.frame if writes else b""
        missed: list[Member] = []
        # Who stops flowing by this has got it, and each is in the list once.
        for write in writes:
            try:
                write(frame)
            except Exception as error:
                # Whatever failed must not keep it from the others.
                log.error("a message was not written", exc_info=error)
                missed.append(direct[writes.index(write)])
        missed += [member for member in others if not otherwise(member)]
        return missed

    def _divide(self) -> None:
        for member, wire in self._members.items():
            if wire is not None and wire.flowing:
                self._direct.append(member)
                self._writes.append(wire.transport.write)
            else:
                self._others.append(member)
        self._divided = True


def _skip(frame: bytes) -> None:
    """The place of somebody who is not sent this message."""
