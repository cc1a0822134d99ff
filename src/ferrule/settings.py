"""Typed settings, read from `FERRULE_…` variables or a `.env` file.

`Settings` holds what concerns the whole application and one group per room of the kit; each module
adds its group. `load_settings(modules)` reads them all and refuses what is unknown or invalid.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    create_model,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from ferrule.db.settings import DatabaseSettings
from ferrule.errors import ConfigurationError
from ferrule.http.settings import HttpSettings
from ferrule.jobs.settings import JobsSettings
from ferrule.mail.settings import MailSettings
from ferrule.module import Module, SettingsGroup
from ferrule.observability.settings import ObservabilitySettings
from ferrule.security.settings import SecuritySettings
from ferrule.streams.settings import StreamsSettings

PREFIX = "FERRULE_"
OUTSIDE = frozenset({"FERRULE_APP"})
"""Names with our prefix that are no settings: what the command line and the test plugin read."""
OUTSIDE_PREFIX = "FERRULE_TEST_"
BARE = ("DATABASE_URL", "REDIS_URL", "PORT")
"""Names that platforms set without our prefix; taken where the prefixed name is missing."""


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]
SecretList = Annotated[list[SecretStr], NoDecode, BeforeValidator(_split)]


def _named(name: str) -> AliasChoices:
    return AliasChoices(PREFIX + name, name)


class Settings(BaseSettings):
    """What concerns the whole application; each room of the kit and each module has a group."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
        validate_default=True,
    )

    environment: Literal["development", "production"] = Field(
        default="development", description="`development` is friendly, `production` strict."
    )
    host: str = Field(default="127.0.0.1", description="Address that the server listens on.")
    port: int = Field(
        default=8000,
        ge=0,
        le=65535,
        validation_alias=_named("PORT"),
        description="Port it listens on.",
    )
    workers: int = Field(default=1, ge=1, le=256, description="Server processes; 1 on SQLite.")
    data_dir: Path = Field(
        default=Path("ferrule-data"),
        description="Folder for the embedded database and the generated secret.",
    )
    database_url: str | None = Field(
        default=None,
        validation_alias=_named("DATABASE_URL"),
        description="`postgresql://…` or `sqlite:///path`; unset: SQLite in the data folder.",
        json_schema_extra={"secret": True},
    )
    redis_url: SecretStr | None = Field(
        default=None,
        validation_alias=_named("REDIS_URL"),
        description="Redis, for hints between processes; unset: PostgreSQL carries them.",
    )
    secret_key: SecretList = Field(
        default_factory=list[SecretStr],
        description="Signs tokens and cursors; several, separated by commas, rotate: the first "
        "signs, all verify. Unset: one is generated in the data folder.",
    )
    public_url: str | None = Field(
        default=None,
        description="Address by which people reach the application, for links and pages.",
    )
    allowed_hosts: CommaList = Field(
        default_factory=list[str],
        description="Names accepted in the Host header; unset: any in development, the host of "
        "the public URL in production.",
    )
    cors_origins: CommaList | None = Field(
        default=None,
        description="Origins that browsers may call from; unset: localhost:3000 and :5173 in "
        "development, none in production.",
    )
    trusted_proxies: CommaList = Field(
        default_factory=list[str],
        description="Addresses whose X-Forwarded-For and -Proto are believed.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe line that is logged."
    )
    log_format: Literal["text", "json"] | None = Field(
        default=None, description="Unset: text in a terminal, JSON otherwise."
    )

    http: HttpSettings = Field(default=HttpSettings(), description="The HTTP edge.")
    database: DatabaseSettings = Field(
        default=DatabaseSettings(), description="Pools, deadlines, migrations."
    )
    security: SecuritySettings = Field(default=SecuritySettings(), description="Password hashing.")
    observability: ObservabilitySettings = Field(
        default=ObservabilitySettings(), description="Metrics and logs."
    )
    jobs: JobsSettings = Field(default=JobsSettings(), description="Durable work.")
    streams: StreamsSettings = Field(
        default=StreamsSettings(), description="Live connections and the bus."
    )
    mail: MailSettings = Field(default=MailSettings(), description="Outgoing mail.")

    @property
    def production(self) -> bool:
        return self.environment == "production"

    @property
    def embedded(self) -> bool:
        """Whether the database is SQLite."""
        return self.database_url is None or self.database_url.startswith("sqlite")

    @property
    def resolved_database_url(self) -> str:
        """The database's URL, the embedded one in the data folder if none is set."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'ferrule.db'}"

    def groups(self) -> list[SettingsGroup]:
        """The groups of rooms and modules."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return [value for value in values if isinstance(value, SettingsGroup)]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings


def settings_type(modules: Iterable[Module]) -> type[Settings]:
    """The settings of an application with these modules."""
    groups: dict[str, Any] = {
        module.name: (
            module.settings,
            Field(default_factory=module.settings, description=f"The module {module.name}."),
        )
        for module in modules
        if module.settings is not None
    }
    return create_model("Settings", __base__=Settings, **groups) if groups else Settings


def load_settings(modules: Iterable[Module], **values: Any) -> Settings:
    """Read the settings from the environment and `.env`; `values` come first.

    Raises `ConfigurationError` that names every unknown or invalid setting.
    """
    kind = settings_type(modules)
    problems = _unknown(kind)
    try:
        settings = kind(**values)
    except ValidationError as error:
        problems += [
            f"{_variable(kind, problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        settings = None
    if settings is None or problems:
        raise ConfigurationError("These settings are refused:\n  " + "\n  ".join(problems))
    return settings


def variables(kind: type[Settings]) -> dict[str, tuple[str, ...]]:
    """Each environment variable with the path of its field: `FERRULE_HTTP__MAX_BODY` → http, …"""
    named: dict[str, tuple[str, ...]] = {}

    def add(model: type[BaseModel], path: tuple[str, ...]) -> None:
        for name, field in model.model_fields.items():
            group = field.annotation
            if isinstance(group, type) and issubclass(group, BaseModel):
                add(group, (*path, name))
            else:
                named[PREFIX + "__".join((*path, name)).upper()] = (*path, name)

    add(kind, ())
    return named


def source_of(variable: str) -> str:
    """Where the present value of a setting comes from."""
    bare = variable.removeprefix(PREFIX)
    for name in (variable, bare) if bare in BARE else (variable,):
        if name in _environment():
            return f"environment {name}"
        if name in _dotenv():
            return f".env {name}"
    return "default"


def _environment() -> Mapping[str, str]:
    return {name.upper(): value for name, value in os.environ.items()}


def _dotenv() -> Mapping[str, str | None]:
    return {name.upper(): value for name, value in dotenv_values(".env").items()}


def _unknown(kind: type[Settings]) -> list[str]:
    known = variables(kind)
    problems: list[str] = []
    for name in sorted({*_environment(), *_dotenv()}):
        if not name.startswith(PREFIX) or name in known:
            continue
        if name in OUTSIDE or name.startswith(OUTSIDE_PREFIX):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`ferrule settings` lists all."
        problems.append(f"{name}: there is no such setting; {hint}")
    return problems


def _variable(kind: type[Settings], loc: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in loc if not isinstance(part, int)]
    first = parts[0].removeprefix(PREFIX).lower() if parts else ""
    return PREFIX + "__".join([first, *parts[1:]]).upper()
