"""Settings: read from the environment and `.env`, refused by name."""

from pathlib import Path

import pytest
from pydantic import Field

from ferrule import ConfigurationError, Module, SettingsGroup
from ferrule.settings import load_settings, settings_type, source_of, variables


class ShopSettings(SettingsGroup):
    currency: str = Field(default="EUR", pattern="^[A-Z]{3}$", description="ISO 4217 code.")


MODULES = [Module(name="shop", settings=ShopSettings)]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def test_every_setting_is_described_and_has_a_default() -> None:
    kind = settings_type(MODULES)
    assert "FERRULE_SHOP__CURRENCY" in variables(kind)
    for variable, path in variables(kind).items():
        model = kind
        for name in path[:-1]:
            model = model.model_fields[name].annotation  # type: ignore[assignment]
        field = model.model_fields[path[-1]]
        assert field.description, variable
        assert not field.is_required(), variable


def test_variables_come_before_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(
        "FERRULE_PORT=9001\nFERRULE_SHOP__CURRENCY=USD\n"
        "FERRULE_ALLOWED_HOSTS=a.example, b.example\nUNRELATED=1\n"
    )
    monkeypatch.setenv("FERRULE_PORT", "9002")
    monkeypatch.setenv("FERRULE_SECRET_KEY", "one,two")
    settings = load_settings(MODULES)
    assert settings.port == 9002
    assert settings.shop.currency == "USD"  # type: ignore[attr-defined]
    assert settings.allowed_hosts == ["a.example", "b.example"]
    assert [key.get_secret_value() for key in settings.secret_key] == ["one", "two"]
    assert source_of("FERRULE_PORT") == "environment FERRULE_PORT"
    assert source_of("FERRULE_SHOP__CURRENCY") == ".env FERRULE_SHOP__CURRENCY"
    assert source_of("FERRULE_HOST") == "default"


def test_bare_names_are_taken_where_the_prefixed_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "9003")
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/bare")
    settings = load_settings([])
    assert (settings.port, settings.database_url) == (9003, "postgresql://localhost/bare")
    assert source_of("FERRULE_PORT") == "environment PORT"
    monkeypatch.setenv("FERRULE_PORT", "9004")
    assert load_settings([]).port == 9004


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FERRULE_PROT", "1", "FERRULE_PROT: there is no such setting; did you mean FERRULE_PORT?"),
        ("FERRULE_SHOP__CURENCY", "EUR", "FERRULE_SHOP__CURENCY: .*FERRULE_SHOP__CURRENCY"),
        ("FERRULE_HTTP__NOPE", "1", "FERRULE_HTTP__NOPE"),
        ("FERRULE_PORT", "x", "FERRULE_PORT: .*integer"),
        ("FERRULE_SHOP__CURRENCY", "euro", "FERRULE_SHOP__CURRENCY: "),
        ("FERRULE_HTTP__MAX_BODY", "-1", "FERRULE_HTTP__MAX_BODY: "),
        ("FERRULE_ENVIRONMENT", "prod", "FERRULE_ENVIRONMENT: .*'production'"),
    ],
)
def test_unknown_and_invalid_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=says):
        load_settings(MODULES)


def test_unknown_names_in_the_env_file_are_refused() -> None:
    Path(".env").write_text("FERRULE_DEBUG=1\n")
    with pytest.raises(ConfigurationError, match="FERRULE_DEBUG"):
        load_settings([])
