"""Metrics for Prometheus: requests, the process, and what an application adds to the registry."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog
from fastapi import APIRouter, Depends
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ferrule.actor import identify
from ferrule.errors import Error, NotFound, Unauthenticated
from ferrule.kit import Kit
from ferrule.observability.probe import probe
from ferrule.observability.settings import ObservabilitySettings

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "OTHER"
UNMATCHED = "unmatched"
MAX_ROUTES = 2000
"""Routes that are told apart; those beyond are counted as unmatched."""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds in seconds: from an answer out of memory to a request at its deadline."""
REFRESH = 2.0
"""Seconds that gauges may take to be brought up to date."""

Refresh = Callable[[Kit], Awaitable[None]]

log = structlog.get_logger("ferrule.metrics")


class Metrics:
    """The metrics of one application in one process.

    An application adds its own with `Counter("orders_total", "…", registry=metrics.registry)`.
    """

    def __init__(self, *, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        info = Gauge("ferrule_info", "The version of Ferrule.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        self._requests = Counter(
            "http_requests_total",
            "Answered requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "http_request_duration_seconds",
            "Time from the request's head to the end of its answer.",
            ["method", "route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._refreshing: list[Refresh] = []
        self._in_flight = 0
        in_flight = Gauge(
            "http_requests_in_flight",
            "Requests that are being answered.",
            registry=self.registry,
        )
        in_flight.set_function(lambda: self._in_flight)
        self._routes: set[str] = set()
        self._bound: dict[
            tuple[str, str, int], tuple[Callable[[], None], Callable[[float], None]]
        ] = {}

    def before_render(self, refresh: Refresh) -> None:
        """Have `refresh(kit)` called before metrics are answered: for gauges of what is stored."""
        self._refreshing.append(refresh)

    async def refresh(self, kit: Kit) -> None:
        """Bring those gauges up to date; where that fails or takes long, they stay as they were."""
        for refresh in self._refreshing:
            try:
                async with asyncio.timeout(REFRESH):
                    await refresh(kit)
            except (Error, TimeoutError) as error:
                log.warning("metrics not refreshed", reason=type(error).__name__)

    def started(self) -> None:
        """A request has begun."""
        self._in_flight += 1

    def finished(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """A request has ended; `route` is the template, None where no route matched."""
        if method not in METHODS:
            method = OTHER
        bound = self._bound.get((method, route or UNMATCHED, status))
        if bound is None:
            bound = self._bind(method, route or UNMATCHED, status)
        count, observe = bound
        count()
        observe(seconds)
        self._in_flight -= 1

    def _bind(
        self, method: str, route: str, status: int
    ) -> tuple[Callable[[], None], Callable[[float], None]]:
        if route not in self._routes and len(self._routes) >= MAX_ROUTES:
            route = UNMATCHED
        if not 100 <= status <= 599:
            status = 500
        self._routes.add(route)
        key = (method, route, status)
        if key not in self._bound:
            self._bound[key] = (
                self._requests.labels(method, route, str(status)).inc,
                self._durations.labels(method, route).observe,
            )
        return self._bound[key]

    def render(self, accept: str | None) -> tuple[bytes, str]:
        """All metrics and their content type: OpenMetrics for those who accept it, else text."""
        if accept and "application/openmetrics-text" in accept.lower():
            generate = cast(Any, openmetrics).generate_latest
            return generate(self.registry), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4


def metrics_routes(settings: ObservabilitySettings, *, production: bool) -> APIRouter:
    """The route `/metrics`: public, or for the metrics token and administrators, or none.

    Who is not allowed gets the same 404 as for a path that does not exist.
    """
    router = APIRouter()
    mode = settings.metrics or ("protected" if production else "public")
    if mode == "off":
        return router
    token = settings.metrics_token.get_secret_value().encode() if settings.metrics_token else b""

    @router.get("/metrics", include_in_schema=False, dependencies=[Depends(probe)])
    async def metrics(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        allowed = mode == "public" or _shows(request, token) or await _is_administrator(request)
        if not allowed:
            raise NotFound
        held: Metrics = request.scope["ferrule.kit"][Metrics]
        await held.refresh(request.scope["ferrule.kit"])
        # In a thread, because some thousand lines take tens of milliseconds.
        body, content_type = await run_in_threadpool(held.render, request.headers.get("accept"))
        headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
        return Response(body, headers=headers)

    return router


def _shows(request: Request, token: bytes) -> bool:
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    # Starlette decodes headers as Latin-1, which gives the bytes back as they came.
    equal = hmac.compare_digest(shown.strip().encode("latin-1"), token)
    return bool(token) and scheme.lower() == "bearer" and equal


async def _is_administrator(request: Request) -> bool:
    try:
        actor = await identify(request)
    except Unauthenticated:
        return False
    return actor.has_role("admin")
