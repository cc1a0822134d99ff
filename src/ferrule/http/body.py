"""Request bodies: counted as they arrive, and JSON is checked before anything else reads it.

What Python's parser takes and our databases cannot hold, or what would exhaust a parser, is refused
once for every route: depth, NaN, numbers too large, lone surrogates, bytes that are not UTF-8.
"""

from typing import Any

from pydantic_core import from_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ferrule.db.types import Path, json_problem
from ferrule.errors import Invalid
from ferrule.http.problems import MEDIA_TYPE, printable, problem
from ferrule.http.settings import HttpSettings


class InvalidJson(Invalid):
    """The body is not JSON that can be stored."""

    code = "invalid_json"


class JsonBodies:
    """ASGI: hands a JSON body on in one piece, once it was found to be sound.

    It reads when the application does, so a route's own body limit counts the bytes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_json(scope):
            await self.app(scope, receive, send)
            return
        read = False

        async def checked() -> Message:
            nonlocal read
            if read:
                return await receive()
            chunks: list[bytes] = []
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                chunks.append(message.get("body", b""))
                if not message.get("more_body", False):
                    break
            read = True
            body = b"".join(chunks)
            if body:
                check_json(body, max_depth=scope["ferrule.kit"][HttpSettings].max_json_depth)
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, checked, send)


def check_json(body: bytes, *, max_depth: int) -> Any:
    """The value; `InvalidJson` for a body that is not JSON that both databases can hold."""
    try:
        value = from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        deep = "recursion limit" in str(error)
        reason = "it is nested too deeply" if deep else "it is not well formed"
        raise _refused(reason) from None
    found = json_problem(value, depth=max_depth)
    if found:
        path, reason = found
        raise _refused(reason, () if "nested" in reason else path)
    return value


class TooLarge:
    """ASGI: answers the framework's plain 413 as a problem.

    Starlette sends it by itself where a route answers without having read a body that is too large.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        replaced = False

        async def replace(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                replaced = not has_type(message["headers"], MEDIA_TYPE)
                if replaced:
                    answer = problem(413, request_id=scope["ferrule.request_id"])
                    await answer(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, replace)


def _refused(reason: str, path: Path = ()) -> InvalidJson:
    detail = f"The JSON is refused: {reason}."
    loc = ["body", *map(printable, path)]
    return InvalidJson(detail, errors=[{"loc": loc, "code": InvalidJson.code, "detail": detail}])


def is_json(scope: Scope) -> bool:
    """Whether the body of a request says that it is JSON."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            return kind == b"application/json" or (
                kind.startswith(b"application/") and kind.endswith(b"+json")
            )
    return False


def has_type(headers: list[tuple[bytes, bytes]], media_type: str) -> bool:
    """Whether an answer's headers say that it is of this media type."""
    kind = media_type.encode()
    return any(name.lower() == b"content-type" and value == kind for name, value in headers)
