"""A module holds one domain; `resolve` orders modules so that each stands on those it requires."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from ferrule.actor import Access, Actor, Door
from ferrule.errors import ConfigurationError
from ferrule.kit import Kit

if TYPE_CHECKING:
    import typer

    from ferrule.db.session import WriteSession
    from ferrule.jobs.functions import JobFunction
    from ferrule.streams.channels import Channel


OnUserDeleted = Callable[["WriteSession", Actor, UUID], Awaitable[None]]


class SettingsGroup(BaseModel):
    """Base of a group of settings; give every field a default, bounds and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True, kw_only=True)
class Module:
    """One domain of the application: data only, without side effects on import.

    - `requires`: names of the modules it imports from, or whose tables it refers to (an `Owned`
      model refers to users: requires auth)
    - `router`: its routes, mounted under `/api/v1`; `pages`: plain pages, mounted at the root
    - `access`: declares the access of all its routes at once, for routers that are not its own
    - `models`: its tables; their migrations live in `migrations/` beside the file of the models
    - `channels`: the kinds of its streams
    - `jobs`: its durable work, functions decorated with `@job`
    - `mails`: the folder of its mail templates, as `Path(__file__).parent / "mails"`
    - `settings`: its group of settings, read from `FERRULE_<NAME>__…`
    - `doors`: ways in for actors
    - `lifespan`: what runs around the life of the application, with the kit as argument
    - `on_user_deleted`: awaited with a session, who asks, and the id of a user, in the transaction
      that deletes them, and before it does: what foreign keys cannot do
    - `commands`: makes its own sub-command of `ferrule`, named as its typer application
    """

    name: str
    requires: Sequence[str] = ()
    router: APIRouter | None = None
    pages: APIRouter | None = None
    access: Access | None = None
    models: Sequence[type[Any]] = ()
    channels: "Sequence[Channel]" = ()
    jobs: "Sequence[JobFunction[Any]]" = ()
    mails: Path | None = None
    settings: type[SettingsGroup] | None = None
    doors: Sequence[Door] = ()
    lifespan: Callable[[Kit], AbstractAsyncContextManager[None]] | None = None
    on_user_deleted: "OnUserDeleted | None" = None
    commands: "Callable[[], typer.Typer] | None" = None

    @property
    def migrations(self) -> Path | None:
        """The folder of its migrations; None for a module without models."""
        if not self.models:
            return None
        file = sys.modules[self.models[0].__module__].__file__
        if file is None:
            raise ConfigurationError(
                f"Module {self.name!r}: the models of a module must stand in a file, "
                f"so that their migrations can stand beside it."
            )
        return Path(file).parent / "migrations"

    @property
    def tables(self) -> frozenset[str]:
        """The names of its tables, with those that join them."""
        names = {model.__table__.name for model in self.models}
        for model in self.models:
            joins = (relation.secondary for relation in model.__mapper__.relationships)
            names.update(join.name for join in joins if join is not None)
        return frozenset(names)


class Departures:
    """What modules do when a user is deleted: those that stand on others first."""

    def __init__(self, modules: Sequence[Module]) -> None:
        calls = (module.on_user_deleted for module in reversed(modules))
        self._calls = [call for call in calls if call is not None]

    async def run(self, session: "WriteSession", actor: Actor, user_id: UUID) -> None:
        for call in self._calls:
            await call(session, actor, user_id)


def resolve(modules: Iterable[Module]) -> tuple[Module, ...]:
    """Order modules so that each comes after those it requires, else in the order given.

    Raises `ConfigurationError` for a name that is taken twice, a requirement that is missing, and
    requirements that run in a circle.
    """
    by_name: dict[str, Module] = {}
    for module in modules:
        if module.name in by_name:
            raise ConfigurationError(
                f"The module {module.name!r} is given twice: rename one, or remove the second."
            )
        by_name[module.name] = module
    ordered: dict[str, Module] = {}

    def place(module: Module, path: tuple[str, ...]) -> None:
        if module.name in ordered:
            return
        if module.name in path:
            circle = " → ".join([*path[path.index(module.name) :], module.name])
            raise ConfigurationError(
                f"Modules require each other in a circle: {circle}. "
                f"Move what they share into a module of its own."
            )
        for name in module.requires:
            if name not in by_name:
                raise ConfigurationError(
                    f"Module {module.name!r} requires {name!r}, which is not part of the "
                    f"application: add it to create_app(modules=[…])."
                )
            place(by_name[name], (*path, module.name))
        ordered[module.name] = module

    for module in by_name.values():
        place(module, ())
    return tuple(ordered.values())
