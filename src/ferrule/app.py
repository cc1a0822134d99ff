"""The composition root: `create_app` puts settings and modules together, and nothing else does."""

import gc
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version as distribution_version
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ferrule.actor import Doors
from ferrule.db.base import check_models
from ferrule.db.database import Database
from ferrule.db.migrations import prepare
from ferrule.errors import ConfigurationError
from ferrule.http import problems
from ferrule.http.body import JsonBodies, TooLarge
from ferrule.http.docs import docs_routes
from ferrule.http.edge import Edge
from ferrule.http.envelope import Envelope
from ferrule.http.index import RouteIndex
from ferrule.http.openapi import describe
from ferrule.http.routes import API, RouteNames, check_routes, endpoints, routers
from ferrule.jobs.engine import engine as jobs
from ferrule.jobs.functions import JobFunctions
from ferrule.jobs.hint import Hint
from ferrule.jobs.metrics import JobMetrics
from ferrule.jobs.settings import JobsSettings
from ferrule.jobs.worker import Worker
from ferrule.kit import Kit
from ferrule.mail.mailers import Mailer, open_mailer
from ferrule.mail.templates import Templates
from ferrule.module import Departures, Module, resolve
from ferrule.observability import health, logs
from ferrule.observability.metrics import Metrics, metrics_routes
from ferrule.resources.router import ResourceRouter
from ferrule.security.passwords import PasswordHasher
from ferrule.security.safety import refuse_unsafe
from ferrule.security.secrets import Secrets, load_or_create_secret
from ferrule.security.tokens import Tokens
from ferrule.settings import Settings, load_settings
from ferrule.streams.channels import Channel, Channels
from ferrule.streams.connections import ConnectionManager
from ferrule.streams.engine import engine as streams

EXPOSED = ("ETag", "Location", "Retry-After", "X-Request-ID")
DEVELOPMENT_ORIGINS = tuple(
    f"http://{host}:{port}" for host in ("localhost", "127.0.0.1") for port in (3000, 5173)
)


class Ferrule(FastAPI):
    """A FastAPI application with its settings, its modules in order, and its kit."""

    def __init__(self, settings: Settings, modules: tuple[Module, ...], **options: Any) -> None:
        super().__init__(
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            lifespan=_lifespan,
            # Innermost, whatever is added later: it reads bodies through FastAPI's limits.
            middleware=[Middleware(JsonBodies)],
            max_body_size=settings.http.max_body,
            generate_unique_id_function=_operation_id,
            **options,
        )
        self.modules = modules
        self.jobs = JobFunctions(modules)
        self.channels = Channels(channel for module in modules for channel in _channels(module))
        self.doors = Doors(door for module in modules for door in module.doors)
        self.departures = Departures(modules)
        self.refusal: ConfigurationError | None = None
        self._traced = True
        self._schemes = {door.name: dict(door.scheme) for door in self.doors if door.scheme}
        problems.install(self)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take these settings from the next start on. Raises `ConfigurationError` if unsafe."""
        refuse_unsafe(settings)
        self.settings = settings
        metrics = Metrics(version=self.version)
        self.kit = Kit(
            *settings.groups(), metrics, self.jobs, self.channels, self.doors, self.departures
        )
        if self.jobs:
            self.kit.provide(JobMetrics(metrics))
        self.kit.provide(settings, kind=Settings)
        self.max_body_size = settings.http.max_body
        self.openapi_schema = None
        self.middleware_stack = None

    def build_middleware_stack(self) -> ASGIApp:
        """The walk of a request: Edge → CORS → Envelope → FastAPI's own layers and router."""
        http = self.settings.http
        self._traced = self._native_telemetry.enabled()
        index = RouteIndex(self, self.kit)
        routes = self.router.routes
        routes[:] = [index, *(route for route in routes if not isinstance(route, RouteIndex))]
        app: ASGIApp = Envelope(TooLarge(super().build_middleware_stack()), mode=http.envelope)
        app = CORSMiddleware(
            app,
            allow_origins=_origins(self.settings),
            allow_credentials=http.cors_credentials,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-Match", "If-None-Match",
                           "Idempotency-Key", "X-Request-ID"],
            expose_headers=EXPOSED,
        )  # fmt: skip
        edge = Edge(
            app,
            kit=self.kit,
            doors=self.doors,
            routes=RouteNames(self),
            origins=[*_origins(self.settings), *_public(self.settings)],
            # Other people's middleware stands between, and must see every request.
            index=None if len(self.user_middleware) > 1 else index,
            envelope=http.envelope,
            allowed_hosts=_hosts(self.settings),
            production=self.settings.production,
        )
        limit = self.settings.observability.max_queries
        if self.settings.production or not limit:
            return edge
        from ferrule.observability.development import QueryWatch

        return QueryWatch(edge, template=edge.routes.template, limit=limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            # FastAPI would look for a tracer in the environment at each request.
            answer = super().__call__ if self._traced else super(FastAPI, self).__call__
            if self.root_path:
                scope["root_path"] = self.root_path
            await answer(scope, receive, send)
            return

        async def explain(message: Message) -> None:
            error = sys.exc_info()[1]
            if message["type"] == "lifespan.startup.failed" and isinstance(
                error, ConfigurationError
            ):
                # What to do about it, instead of a stack.
                self.refusal = error
                message = {**message, "message": str(error)}
            await send(message)

        await super().__call__(scope, receive, explain)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = describe(self, self._schemes, self.settings)
        return self.openapi_schema

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Kit]:
        """The kit with all that the modules offer, without serving."""
        async with AsyncExitStack() as stack:
            kit = await stack.enter_async_context(self.opened())
            checks = health.Health()
            checks.add("database", kit[Database].check)
            kit.provide(checks)
            for module in self.modules:
                if module.lifespan is not None:
                    await stack.enter_async_context(module.lifespan(kit))
            yield kit

    async def drain(self, seconds: float | None = None) -> None:
        """Send those who are live away, because the server is about to stop.

        Over so many seconds; None: as the settings say.
        """
        if ConnectionManager in self.kit:
            seconds = self.settings.streams.drain if seconds is None else seconds
            await self.kit[ConnectionManager].drain(seconds)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Kit]:
        """The kit with its database open and its schema up to date, without serving."""
        settings = self.settings
        keys = settings.secret_key or [load_or_create_secret(settings.data_dir)]
        secrets = Secrets(keys)
        hasher = PasswordHasher(settings.security)
        database = Database(settings.resolved_database_url, settings.database, self.kit)
        folders = {each.name: each.mails for each in self.modules if each.mails is not None}
        templates = Templates(folders, instead=settings.mail.templates)
        for thing in (secrets, Tokens(keys), hasher, database, templates, Hint()):
            self.kit.provide(thing)
        self.kit.provide(open_mailer(settings), kind=Mailer)
        try:
            await prepare(database, self.modules)
            yield self.kit
        finally:
            await database.close()
            hasher.close()


def create_app(
    settings: Settings | None = None,
    modules: Iterable[Module] | None = None,
    *,
    title: str = "Ferrule",
    version: str | None = None,
) -> Ferrule:
    """Put an application together.

    `settings` are read from the environment and `.env` where not given; `modules` are the shipped
    ones. Raises `ConfigurationError` where they do not fit together, with what to do about it.
    """
    if modules is None:
        from ferrule.modules import SHIPPED as modules
    given = tuple(modules)
    ordered = resolve((*_engines(given), *given))
    app = Ferrule(
        settings or load_settings(ordered),
        ordered,
        title=title,
        version=version or distribution_version("ferrule"),
    )
    _add_routes(app)
    return app


def _engines(modules: Sequence[Module]) -> list[Module]:
    """The modules of the kit whose tables and routes are there because some module needs them."""
    working = any(module.jobs for module in modules)
    live = any(_channels(module) or streams.name in module.requires for module in modules)
    needed = [streams] if live or working else []
    if working:
        needed.append(jobs)
    return [engine for engine in needed if engine not in modules]


def _channels(module: Module) -> list[Channel]:
    """The channels of a module, with those of its resources."""
    found = [*module.channels]
    for router in routers(module.router) if module.router is not None else ():
        if isinstance(router, ResourceRouter) and router.resource.channel is not None:
            found.append(router.resource.channel)
    return found


def _add_routes(app: Ferrule) -> None:
    owners: dict[Any, str] = {}
    app.router.routes.extend(docs_routes(title=app.title))
    app.add_route("/openapi.json", _openapi, include_in_schema=False)
    settings = app.settings
    app.include_router(metrics_routes(settings.observability, production=settings.production))
    app.include_router(health.router, prefix=API)
    for module in app.modules:
        check_models(module.models, module=module.name)
        dependencies = [Depends(module.access)] if module.access else None
        for router, prefix in ((module.router, API), (module.pages, "")):
            if router is not None:
                app.include_router(router, prefix=prefix, dependencies=dependencies)
                owners |= dict.fromkeys(endpoints(router), module.name)
    check_routes(app, lambda route: owners.get(route.endpoint, "the application"))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app = cast(Ferrule, app)
    # Next to nothing that is made during the start is garbage.
    collecting = gc.isenabled()
    gc.disable()
    try:
        logs.configure(app.settings.log_level, app.settings.log_format)
        # Once more, with what was added to the application after create_app.
        check_routes(app, lambda route: "the application")
        async with AsyncExitStack() as stack:
            kit = await stack.enter_async_context(app.running())
            if app.jobs and kit[JobsSettings].embedded:
                worker = Worker(kit)
                kit[health.Health].add("jobs", worker.check)
                await stack.enter_async_context(worker.running())
            if not app.settings.production:
                from ferrule.observability.development import watched

                await stack.enter_async_context(watched(kit[Database], app.settings.observability))
            # What lives as long as the process need not be looked through by each collection.
            # Elsewhere, in tests say, many applications come and go in a process.
            if app.settings.production:
                gc.freeze()
            if collecting:
                gc.enable()
            yield
    finally:
        if collecting:
            gc.enable()


async def _openapi(request: Request) -> Response:
    import json

    document: Mapping[str, Any] = request.app.openapi()
    root_path = request.scope.get("root_path", "").rstrip("/")
    if root_path:
        document = {**document, "servers": [{"url": root_path}]}
    return Response(json.dumps(document), media_type="application/json")


def _operation_id(route: APIRoute) -> str:
    return f"{route.tags[0]}_{route.name}" if route.tags else route.name


def _hosts(settings: Settings) -> list[str]:
    if settings.allowed_hosts:
        return settings.allowed_hosts
    if settings.production and settings.public_url:
        return [urlsplit(settings.public_url).hostname or ""]
    return ["*"]


def _public(settings: Settings) -> list[str]:
    return [settings.public_url] if settings.public_url else []


def _origins(settings: Settings) -> list[str]:
    if settings.cors_origins is not None:
        return settings.cors_origins
    return [] if settings.production else list(DEVELOPMENT_ORIGINS)
