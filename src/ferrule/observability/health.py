"""Health: what the application stands on, for orchestrators, load balancers and people."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import structlog
from fastapi import APIRouter, Depends, Request, Response

from ferrule.errors import ConfigurationError, Unavailable
from ferrule.observability.probe import probe
from ferrule.schemas import Schema

Detail = Mapping[str, str | int | float | bool]
Check = Callable[[], Awaitable[Detail | None]]
"""Returns nothing, or details that everybody may read; raises what is wrong."""
Status = Literal["ok", "degraded", "failing"]

_log: structlog.stdlib.BoundLogger = structlog.get_logger("ferrule.health")


class Degraded(Exception):
    """Raise it in a check of what works less well than it should, but is no reason to stop.

    Everybody may read the detail. Requests are sent here as before.
    """

    def __init__(self, detail: Detail | str) -> None:
        super().__init__(detail)
        self.detail = detail if isinstance(detail, str) else dict(detail)


class CheckResult(Schema):
    """What one check found, and the milliseconds it took."""

    status: Status
    ms: float
    detail: dict[str, str | int | float | bool] | str | None = None


class HealthReport(Schema):
    """`ok` if every check is, `failing` if one is."""

    status: Status
    checks: dict[str, CheckResult]


class Health:
    """The checks of an application: `health.add("database", check)`.

    `draining = True` makes it not ready, so that no new requests are sent before it stops.
    """

    def __init__(self, *, deadline: float = 2.0) -> None:
        self.draining = False
        self._deadline = deadline
        self._checks: dict[str, Check] = {}
        self._states: dict[str, Status] = {}
        self._running: asyncio.Task[HealthReport] | None = None

    def add(self, name: str, check: Check) -> None:
        """Run `check` with the others. What it raises is logged, and only its kind is answered."""
        if name in self._checks:
            raise ConfigurationError(f"The health check {name!r} is added twice: rename one.")
        self._checks[name] = check

    async def report(self) -> HealthReport:
        """Run all checks at once, each under the deadline; who asks meanwhile gets the same."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        # Shielded, because whoever hangs up must not end it for the others.
        return await asyncio.shield(self._running)

    async def _run(self) -> HealthReport:
        tasks = {
            name: asyncio.create_task(self._checked(name, check))
            for name, check in self._checks.items()
        }
        try:
            if tasks:
                # Unlike asyncio.timeout it does not wait for a check that ignores being cancelled.
                await asyncio.wait(tasks.values(), timeout=self._deadline)
            checks = {name: self._result(name, task) for name, task in tasks.items()}
        finally:
            for task in tasks.values():
                task.cancel()
        return _report(checks)

    async def _checked(self, name: str, check: Check) -> CheckResult:
        started = time.perf_counter()
        try:
            status, detail = await _found(check)
            result = CheckResult(status=status, ms=_since(started), detail=detail)
        except Exception as failure:
            self._note(name, "failing", exc_info=failure)
            return CheckResult(status="failing", ms=_since(started), detail=_reason(failure))
        self._note(name, status, detail=detail)
        return result

    def _result(self, name: str, task: asyncio.Task[CheckResult]) -> CheckResult:
        if task.done() and not task.cancelled():
            return task.result()
        self._note(name, "failing", reason="timeout")
        return CheckResult(status="failing", ms=self._deadline * 1000, detail="timeout")

    def _note(self, name: str, status: Status, **why: Any) -> None:
        before = self._states.get(name, "ok")
        self._states[name] = status
        if status == before:
            return
        if status == "ok":
            _log.info("health check recovered", check=name)
        else:
            _log.warning(f"health check {status}", check=name, **why)


router = APIRouter(prefix="/health", tags=["health"], dependencies=[Depends(probe)])
_UNHEALTHY = {503: {"model": HealthReport, "description": "A check fails."}}


@router.get(
    "", summary="Ask every check", responses={**_UNHEALTHY}, response_model_exclude_none=True
)
async def read_health(request: Request, response: Response) -> HealthReport:
    """Every check and its time."""
    return _answer(response, await _health(request).report())


@router.get("/live", summary="Ask whether the process turns", response_model_exclude_none=True)
async def read_liveness(response: Response) -> HealthReport:
    """Whether the process answers at all; an orchestrator restarts it if not."""
    return _answer(response, _report({}))


@router.get(
    "/ready",
    summary="Ask whether to send requests",
    responses={**_UNHEALTHY},
    response_model_exclude_none=True,
)
async def read_readiness(request: Request, response: Response) -> HealthReport:
    """Whether requests may be sent here: no check fails, and it is not about to stop."""
    health = _health(request)
    if health.draining:
        draining = CheckResult(status="failing", ms=0, detail="draining")
        return _answer(response, _report({"draining": draining}))
    return _answer(response, await health.report())


def _health(request: Request) -> Health:
    return request.scope["ferrule.kit"][Health]


def _answer(response: Response, report: HealthReport) -> HealthReport:
    response.status_code = 503 if report.status == "failing" else 200
    response.headers["Cache-Control"] = "no-store"
    return report


def _report(checks: dict[str, CheckResult]) -> HealthReport:
    found = {check.status for check in checks.values()}
    worst: Status = "degraded" if "degraded" in found else "ok"
    return HealthReport(status="failing" if "failing" in found else worst, checks=checks)


def _reason(failure: Exception) -> str:
    if isinstance(failure, TimeoutError):
        return "timeout"
    return "unreachable" if isinstance(failure, OSError | Unavailable) else "error"


async def _found(check: Check) -> tuple[Status, dict[str, str | int | float | bool] | str | None]:
    try:
        detail = await check()
    except Degraded as state:
        return "degraded", state.detail
    return "ok", None if detail is None else dict(detail)


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
