"""Entity tags of stored rows, made of `revision`, and `If-Match` (RFC 9110, section 13.1)."""

import re
from typing import Annotated

from fastapi import Depends, Header

from ferrule.errors import PreconditionFailed

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def etag(revision: int) -> str:
    """The strong entity tag of a revision, as `ETag` and `If-Match` carry it."""
    return f'"{revision}"'


def tag_matches(header: str | None, revision: int) -> bool:
    """Whether `If-None-Match` names this revision (weak comparison), so that the answer is 304."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return etag(revision) in (tag.removeprefix("W/") for tag in _TAG.findall(header))


class IfMatch:
    """The revisions that a change may be made to."""

    def __init__(self, header: str | None = None) -> None:
        self._any = header is None or header.strip() == "*"
        self._tags = frozenset(_TAG.findall(header or ""))

    def check(self, revision: int) -> None:
        """Raise `PreconditionFailed` if the row has another revision than the client saw."""
        if not self._any and etag(revision) not in self._tags:
            raise PreconditionFailed("It was changed since you read it. Read it again, and retry.")


ANY_REVISION = IfMatch()


async def _if_match(
    if_match: Annotated[
        str | None,
        Header(
            max_length=1000,
            description="ETag of the row as you read it; 412 if it changed.",
            examples=['"1"', "*"],
        ),
    ] = None,
) -> IfMatch:
    return IfMatch(if_match)


IfMatchHeader = Annotated[IfMatch, Depends(_if_match)]
