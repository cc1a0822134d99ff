"""The envelope: `{"success": true, "data": …}` around JSON answers, for clients that ask for it."""

from typing import Any, Literal, cast

from pydantic_core import from_json, to_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEDIA_TYPE = "application/vnd.ferrule.envelope+json"

Mode = Literal["never", "on_request", "always"]


class Envelope:
    """ASGI: wraps JSON answers when `Accept` names the envelope, or always, by setting."""

    def __init__(self, app: ASGIApp, *, mode: Mode) -> None:
        self.app = app
        self.mode = mode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._wanted(scope):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        chunks: list[bytes] = []

        async def wrap(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                if not _is_json(message):
                    await send(message)
                return
            if not _is_json(start):
                await send(message)
                return
            chunks.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body = b"".join(chunks)
            if body:
                body = to_json(enveloped(from_json(body), start["status"]))
                headers = MutableHeaders(raw=start["headers"])
                headers["content-type"] = MEDIA_TYPE
                headers["content-length"] = str(len(body))
                headers.add_vary_header("Accept")
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, wrap)

    def _wanted(self, scope: Scope) -> bool:
        if self.mode == "always":
            # The description of the API is no answer of the API.
            return scope["path"].removeprefix(scope.get("root_path", "")) != "/openapi.json"
        return self.mode == "on_request" and MEDIA_TYPE in Headers(scope=scope).get("accept", "")


def enveloped(answer: Any, status: int) -> dict[str, Any]:
    """The envelope of an answer."""
    if status >= 400:
        problem = cast(dict[str, Any], answer)
        error = {"code": problem.get("code"), "message": problem.get("detail")}
        error |= {key: problem[key] for key in ("errors", "request_id") if key in problem}
        return {"success": False, "error": error}
    if isinstance(answer, dict) and answer.keys() == {"items", "pagination"}:
        listing = cast(dict[str, Any], answer)
        paging = listing["pagination"]
        return {
            "success": True,
            "data": listing["items"],
            "pagination": {key: paging.get(key) for key in ("page", "limit", "total", "next")},
        }
    return {"success": True, "data": answer}


def _is_json(start: Message) -> bool:
    for name, value in start.get("headers", ()):
        if name.lower() == b"content-type":
            return value.partition(b";")[0] in (b"application/json", b"application/problem+json")
    return False
