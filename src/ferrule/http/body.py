"""JSON bodies are checked before anything else reads them.

What Python's parser takes and our databases cannot hold, or what would exhaust a parser, is refused
once for every route: depth, NaN, numbers too large, lone surrogates, bytes that are not UTF-8.
"""

from pydantic_core import from_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ferrule.db.types import Path, json_problem
from ferrule.errors import Invalid
from ferrule.http.problems import printable


class InvalidJson(Invalid):
    """The body is not JSON that can be stored."""

    code = "invalid_json"


class JsonBodies:
    """ASGI: hands a JSON body on in one piece, once it was found to be sound.

    It reads when the application does, so a route's own body limit counts the bytes.
    """

    def __init__(self, app: ASGIApp, *, max_depth: int) -> None:
        self.app = app
        self.max_depth = max_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_json(scope):
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
                self._check(body)
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, checked, send)

    def _check(self, body: bytes) -> None:
        try:
            value = from_json(body, allow_inf_nan=False, cache_strings=False)
        except ValueError as error:
            reason = str(error)
            if "recursion limit" in reason:
                raise _refused("it is nested too deeply") from None
            raise _refused("it is not well formed") from None
        problem = json_problem(value, depth=self.max_depth)
        if problem:
            path, reason = problem
            raise _refused(reason, () if "nested" in reason else path)


def _refused(reason: str, path: Path = ()) -> InvalidJson:
    detail = f"The JSON is refused: {reason}."
    loc = ["body", *map(printable, path)]
    return InvalidJson(detail, errors=[{"loc": loc, "code": InvalidJson.code, "detail": detail}])


def _is_json(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            return kind == b"application/json" or (
                kind.startswith(b"application/") and kind.endswith(b"+json")
            )
    return False
