"""The edge: the one layer around every request. Ids, hosts, headers, the log line, the metrics."""

import re
import time
from collections.abc import Sequence
from random import getrandbits
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ferrule.actor import ANONYMOUS, Actor, Door
from ferrule.errors import Draining
from ferrule.http.envelope import Mode
from ferrule.http.index import RAISED, RouteIndex
from ferrule.http.problems import of_error, problem, unexpected
from ferrule.http.routes import RouteNames
from ferrule.http.sockets import Origins, Socket
from ferrule.kit import Kit
from ferrule.observability.health import Health
from ferrule.observability.logs import log_request, log_socket
from ferrule.observability.metrics import Metrics
from ferrule.observability.rendering import request_id as current_id

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}\Z")

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
# An answer of the API is no page; pages bring a policy of their own.
API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
TRANSPORT = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
NO_STORE = (b"cache-control", b"no-store")


class Edge:
    """ASGI, outermost: nothing that is raised inside passes it unlogged or unanswered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        kit: Kit,
        doors: Sequence[Door],
        routes: RouteNames,
        index: RouteIndex | None,
        envelope: Mode,
        allowed_hosts: Sequence[str],
        production: bool,
        origins: Sequence[str] = (),
    ) -> None:
        self.app = app
        self.kit = kit
        self.doors = tuple(doors)
        self.routes = routes
        self.index = index if envelope != "always" else None
        self.envelope = envelope
        self.metrics = kit[Metrics]
        self.origins = Origins(origins)
        self.any_host = "*" in allowed_hosts
        self.hosts = frozenset(host.lower() for host in allowed_hosts if not host.startswith("*."))
        self.domains = tuple(host[1:].lower() for host in allowed_hosts if host.startswith("*."))
        headers = (*SECURITY_HEADERS, *((TRANSPORT,) if production else ()), API_POLICY)
        self.headers = _named(headers)
        self.private_headers = _named((*headers, NO_STORE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope["ferrule.request_id"] = request_id
        scope["ferrule.kit"] = self.kit
        scope["ferrule.doors"] = self.doors
        serve = self._http if scope["type"] == "http" else self._websocket
        token = current_id.set(request_id)
        try:
            await serve(scope, receive, send, request_id)
        finally:
            current_id.reset(token)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()
        self.metrics.started()
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._stamp(scope, message, request_id)
            await send(message)

        try:
            refusal = self._refuse(scope)
            if refusal is not None:
                detail, code = refusal
                answer = problem(400, request_id=request_id, detail=detail, code=code)
                await answer(scope, receive, stamped)
            else:
                onward: Receive | None = receive
                if self.index is not None:
                    onward = await self.index.serve(scope, receive, stamped, edge=True)
                    if status and RAISED in scope:
                        # Too late for an answer: it is logged as the layers within would.
                        error = scope.pop(RAISED)
                        await unexpected(Request(scope), error)
                        raise error
                if onward is not None:
                    await self.app(scope, onward, stamped)
        except Exception as error:
            # The application has answered and logged what it raises; this is what it could not.
            if not status:
                answer = await unexpected(Request(scope), error)
                await answer(scope, receive, stamped)
        finally:
            seconds = time.perf_counter() - started
            route: str = scope.get("ferrule.route") or self.routes.template(scope)
            self.metrics.finished(scope["method"], route, status, seconds)
            actor: Actor = scope.get("ferrule.actor", ANONYMOUS)
            log_request(
                request_id=request_id,
                method=scope["method"],
                route=route,
                status=status,
                duration_ms=seconds * 1000,
                actor=str(actor),
                client=scope["client"][0] if scope.get("client") else None,
            )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.metrics.started()

        def count(status: int, seconds: float) -> None:
            # The handshake is the request: the connection may stay for days.
            self.metrics.finished("GET", self.routes.template(scope), status, seconds)

        socket = Socket(
            scope, receive, send, request_id=request_id, stamp=self._stamp, on_answer=count
        )
        try:
            refusal = self._refuse_handshake(scope, request_id)
            if refusal is not None:
                await socket.refuse(refusal)
            else:
                await self.app(scope, socket.receive, socket.send)
                await socket.end()
        except Exception as error:
            await socket.fail(error)
        finally:
            if not socket.status:
                count(0, time.perf_counter() - socket.started)
            log_socket(
                request_id=request_id,
                route=self.routes.template(scope),
                status=socket.status,
                code=socket.code,
                seconds=time.perf_counter() - socket.started,
                actor=str(scope.get("ferrule.actor", ANONYMOUS)),
                client=scope["client"][0] if scope.get("client") else None,
                failed=socket.failed,
            )

    def _refuse_handshake(self, scope: Scope, request_id: str) -> Response | None:
        refused = self._refuse(scope)
        if refused is not None:
            detail, code = refused
            return problem(400, request_id=request_id, detail=detail, code=code)
        if not self.origins.allow(scope):
            detail = (
                "Pages of this origin may not connect: see FERRULE_CORS_ORIGINS and _PUBLIC_URL."
            )
            return problem(403, request_id=request_id, detail=detail, code="bad_origin")
        if Health in self.kit and self.kit[Health].draining:
            return of_error(Draining(), request_id=request_id)
        return None

    def _refuse(self, scope: Scope) -> tuple[str, str] | None:
        """Why a request is refused before any route sees it: detail and code."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1 or (not hosts and scope.get("http_version", "1.1") != "1.0"):
            return "Send one Host header.", "bad_host"
        if hosts and not self._host_allowed(hosts[0]):
            return "This host is not served here: see FERRULE_ALLOWED_HOSTS.", "bad_host"
        if "\x00" in scope["path"] or b"\x00" in unquote_to_bytes(scope["query_string"]):
            return "The address holds a NUL character.", "bad_address"
        return None

    def _host_allowed(self, header: bytes) -> bool:
        if self.any_host:
            return True
        host = header.decode("latin-1").lower()
        name = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
        return name in self.hosts or name.endswith(self.domains or ("\x00",))

    def _stamp(self, scope: Scope, message: Message, request_id: str) -> None:
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        private = scope.get("ferrule.actor", ANONYMOUS).id is not None or message["status"] == 401
        names, added = self.private_headers if private else self.headers
        present = {name.lower() for name, _ in headers}
        headers.append((b"x-request-id", request_id.encode()))
        if private:
            headers.append((b"vary", b"Authorization"))
        if names.isdisjoint(present):
            headers.extend(added)
        else:
            headers.extend(header for header in added if header[0] not in present)
        message["headers"] = headers


def _named(headers: Sequence[tuple[bytes, bytes]]) -> tuple[frozenset[bytes], list[Any]]:
    return frozenset(name for name, _ in headers), list(headers)


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-ID where it is a plain one, so that logs join up; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return value.decode()
    # Unique, which is all that it has to be: nothing is granted to who guesses it.
    return f"{getrandbits(128):032x}"
