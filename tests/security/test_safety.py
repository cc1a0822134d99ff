"""K1: production refuses unsafe settings and says what to do."""

from typing import Any

import pytest

from ferrule.errors import ConfigurationError
from ferrule.security.safety import key_problem, refuse_unsafe
from ferrule.settings import Settings

KEY = "kq7Vw2XzT9bLrYp4JmNcFgHs8DuEa3Qo"
OTHER = "Zt5RfW8yMxC2vBnK7jLhGpQa4SdEu9Io"


def settings(**values: Any) -> Settings:
    safe = {"environment": "production", "public_url": "https://app.company.org"}
    return Settings(**{**safe, "secret_key": [KEY], **values})


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        refuse_unsafe(settings(**values))
    return str(refused.value)


def test_k1_safe_settings_start() -> None:
    refuse_unsafe(settings())
    refuse_unsafe(settings(secret_key=[KEY, OTHER]))
    refuse_unsafe(settings(secret_key=[]))  # the embedded database has a secret beside it
    refuse_unsafe(settings(public_url=None, allowed_hosts=["app.company.org"]))
    refuse_unsafe(settings(public_url="http://localhost:8000"))
    refuse_unsafe(settings(database_url="postgresql://db/app"))
    refuse_unsafe(Settings())


@pytest.mark.parametrize(
    "key",
    [
        "too_few",
        KEY[:31],
        "a" * 64,
        "ab" * 32,
        "abcdefgh" * 8,
        "abcdefghijklmnopqrstuvwxyz012345",
        "please-change-me-" + KEY,
        "CHANGEME" + KEY,
        "my_super_secret_key_for_production_1",
        "django-insecure-" + KEY,
        "your-256-bit-secret-goes-in-here-ok",
        "correct-p-a-s-s-w-o-r-d-" + KEY,
    ],
)
def test_k1_keys_that_can_be_guessed_are_refused(key: str) -> None:
    text = refusal(secret_key=[KEY, key])
    assert "FERRULE_SECRET_KEY" in text
    assert "openssl rand" in text
    assert key not in text


def test_k1_random_keys_are_not_refused() -> None:
    import secrets

    for _ in range(2000):
        for key in (secrets.token_hex(16), secrets.token_urlsafe(24), secrets.token_urlsafe(48)):
            assert key_problem(key) is None


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"secret_key": [KEY, KEY]}, "FERRULE_SECRET_KEY"),
        ({"secret_key": [], "database_url": "postgresql://db/app"}, "FERRULE_SECRET_KEY"),
        ({"allowed_hosts": ["app.company.org", "*"]}, "FERRULE_ALLOWED_HOSTS"),
        ({"public_url": None}, "FERRULE_PUBLIC_URL"),
        ({"public_url": "http://app.company.org"}, "FERRULE_PUBLIC_URL"),
        ({"public_url": "http://localhost.company.org"}, "FERRULE_PUBLIC_URL"),
        ({"public_url": "app.company.org"}, "FERRULE_PUBLIC_URL"),
        ({"public_url": "https://user:pass@app.company.org"}, "FERRULE_PUBLIC_URL"),
        ({"public_url": "https://app.company.org:none"}, "FERRULE_PUBLIC_URL"),
        ({"public_url": "https://[::1"}, "FERRULE_PUBLIC_URL"),
        ({"cors_origins": ["*"]}, "FERRULE_CORS_ORIGINS"),
        (
            {"cors_origins": ["https://a.org", "*"], "environment": "development"},
            "FERRULE_CORS_ORIGINS",
        ),
        ({"secret_key": ["short"], "environment": "development"}, "FERRULE_SECRET_KEY"),
    ],
)
def test_k1_the_refusal_names_the_setting(values: dict[str, Any], named: str) -> None:
    assert named in refusal(**values)


def test_k1_all_problems_are_named_at_once() -> None:
    text = refusal(secret_key=["short"], public_url="http://app.org", cors_origins=["*"])
    for name in ("FERRULE_SECRET_KEY", "FERRULE_PUBLIC_URL", "FERRULE_CORS_ORIGINS"):
        assert name in text


def test_cors_with_any_origin_starts_without_credentials() -> None:
    refuse_unsafe(settings(cors_origins=["*"], http={"cors_credentials": False}))


@pytest.mark.parametrize(
    ("mail", "named"),
    [
        ({}, "SENDER"),
        ({"sender": "The Shop"}, "SENDER"),
        ({"sender": "mail@shop.org", "username": "shop"}, "PASSWORD"),
        ({"sender": "mail@shop.org", "password": "x"}, "USERNAME"),
        (
            {"sender": "mail@shop.org", "username": "shop", "password": "x", "encryption": "none"},
            "ENCRYPTION",
        ),
    ],
)
def test_mail_that_could_not_leave_is_told_at_the_start(mail: dict[str, Any], named: str) -> None:
    assert f"FERRULE_MAIL__{named}" in refusal(mail={"host": "smtp.shop.org", **mail})


def test_mail_that_can_leave_starts() -> None:
    login = {"username": "shop", "password": "x"}
    refuse_unsafe(settings(mail={"host": "smtp.shop.org", "sender": "Shop <m@shop.org>", **login}))
    local = {"host": "localhost", "sender": "m@mailhost", "encryption": "none"}
    refuse_unsafe(settings(mail={**local, **login}))
