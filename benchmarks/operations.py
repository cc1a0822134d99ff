"""What every contender is asked to do, and whether its answer is one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from benchmarks.contenders import Contender
from benchmarks.data import NEW, Client
from benchmarks.server import PORT, Server


@dataclass(frozen=True)
class Operation:
    """A request that is measured; `query` follows the path of the items."""

    name: str
    status: int
    method: str = "GET"
    query: str = ""
    body: Any = None


GET = Operation("GET one", 200)
LIST = Operation("list 50 + count", 200, query="?limit=50")
POST = Operation("POST", 201, "POST", body={"name": NEW})
OPERATIONS = (GET, LIST, POST)


def target(operation: Operation, contender: Contender, client: Client) -> str:
    """The path and query of the operation for this client."""
    one = f"/{client.item}" if operation is GET else ""
    return f"{contender.path}{one}{operation.query}"


def requests(operation: Operation, contender: Contender, clients: Sequence[Client]) -> list[bytes]:
    """Prebuilt requests of many logins, each for what is theirs."""
    built: list[bytes] = []
    for client in clients:
        lines = [
            f"{operation.method} {target(operation, contender, client)} HTTP/1.1",
            f"Host: 127.0.0.1:{PORT}",
            f"Authorization: Bearer {client.token}",
            f"X-Owner: {client.user}",
        ]
        body = b""
        if operation.body is not None:
            body = json.dumps(operation.body).encode()
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        built.append("\r\n".join([*lines, "", ""]).encode() + body)
    return built


def verify(operation: Operation, server: Server, client: Client) -> None:
    """Exit if the contender's answer is not what was asked for."""
    answer = server.ask(
        operation.method,
        target(operation, server.contender, client),
        token=client.token,
        body=operation.body,
        X_Owner=str(client.user),
    )
    if answer.status == operation.status and _fits(operation, json.loads(answer.body), client):
        return
    raise SystemExit(
        f"{server.contender.name} does not do {operation.name}: "
        f"{answer.status} {answer.body[:300].decode(errors='replace')}"
    )


def _fits(operation: Operation, body: Any, client: Client) -> bool:
    if operation is GET:
        return UUID(body["id"]) == client.item and body["name"].startswith("Item ")
    if operation is POST:
        return body["name"] == NEW and body["quantity"] == 1 and bool(UUID(body["id"]))
    rows = body["items"] if "items" in body else body["results"]
    ids = [UUID(row["id"]) for row in rows]
    return len(ids) == 50 and ids == sorted(ids, reverse=True) and _total(body) >= 100


def _total(body: Any) -> int:
    """The count of all rows, wherever the contender has it."""
    return body["total"] if "total" in body else body.get("count") or body["pagination"]["total"]
