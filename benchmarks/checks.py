"""What each contender checks and tells, as it can be seen from outside."""

import time
from collections.abc import Callable
from typing import Any

from benchmarks.data import NEW, Data
from benchmarks.server import Answer, Server

REFUSED = range(400, 500)


def see(server: Server, data: Data) -> dict[str, bool]:
    """Every check by its name, and whether the contender does it."""
    return {name: check(server, data) for name, check in CHECKS.items()}


def _one(server: Server, data: Data, *, token: str = "", item: int = 0) -> Answer:
    first = data.clients[0]
    path = f"{server.contender.path}/{data.clients[item].item}"
    return server.ask("GET", path, token=token or first.token, X_Owner=str(first.user))


def _refuses(what: str) -> Callable[[Server, Data], bool]:
    return lambda server, data: _one(server, data, token=data.refused[what]).status in REFUSED


def _refuses_body(**fields: Any) -> Callable[[Server, Data], bool]:
    def check(server: Server, data: Data) -> bool:
        first, body = data.clients[0], {"name": NEW, **fields}
        answer = server.ask(
            "POST",
            server.contender.path,
            token=first.token,
            body=body,
            X_Owner=str(first.user),
        )
        return answer.status in REFUSED

    return check


def _tells(*names: str) -> Callable[[Server, Data], bool]:
    return lambda server, data: bool(set(names) & set(_one(server, data).headers))


def _owner(server: Server, data: Data) -> bool:
    return _one(server, data, item=-1).status in REFUSED


def _list_etag(server: Server, data: Data) -> bool:
    first = data.clients[0]
    answer = server.ask(
        "GET", f"{server.contender.path}?limit=50", token=first.token, X_Owner=str(first.user)
    )
    return "etag" in answer.headers


def _access_log(server: Server, data: Data) -> bool:
    before = server.logged()
    for _ in range(20):
        _one(server, data)
    time.sleep(0.5)
    return server.logged() > before


def _metrics(server: Server, data: Data) -> bool:
    return server.ask("GET", "/metrics").status == 200


CHECKS: dict[str, Callable[[Server, Data], bool]] = {
    "a forged token is refused": _refuses("forged"),
    "an expired token is refused": _refuses("expired"),
    "a login that was ended is refused": _refuses("revoked"),
    "a disabled user is refused": _refuses("disabled"),
    "another user's item is not found": _owner,
    "a name that is too long is refused": _refuses_body(name=NEW * 20),
    "an unknown field is refused": _refuses_body(colour="red"),
    "a body of 8 MiB is refused": _refuses_body(metadata={"text": "x" * 2**23}),
    "ETag of one": _tells("etag"),
    "ETag of a list": _list_etag,
    "request id": _tells("x-request-id"),
    "security headers": _tells("x-content-type-options"),
    "rate limit": _tells("ratelimit", "ratelimit-limit", "x-ratelimit-limit"),
    "access log": _access_log,
    "metrics": _metrics,
}
