"""Tokens: hostile ones are refused, every claim is required, keys rotate."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

import jwt
import pytest

from ferrule.errors import Unauthenticated
from ferrule.security.secrets import Secrets
from ferrule.security.tokens import InvalidToken, Tokens

OLD, NEW = "an old key of forty characters, or about", "a new key of forty characters, or about."
tokens = Tokens([NEW])
KEY = Secrets([NEW]).signing_key("token:access")


def encoded(data: bytes | dict[str, Any]) -> str:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def forged(header: dict[str, Any], payload: dict[str, Any] | bytes, key: bytes = KEY) -> str:
    """A token with any header, and with a signature that is right."""
    signed = f"{encoded(header)}.{encoded(payload)}"
    return f"{signed}.{encoded(hmac.digest(key, signed.encode(), sha256))}"


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    full = {
        "iss": "ferrule",
        "aud": "ferrule",
        "sub": "ann",
        "jti": "1",
        "kind": "access",
        "iat": now,
        "exp": now + 60,
    }
    return {name: value for name, value in {**full, **changes}.items() if value is not ...}


def test_what_is_issued_is_verified() -> None:
    said = tokens.verify(
        tokens.issue("access", subject="ann", ttl=60, claims={"sid": "7"}), "access"
    )
    assert said.subject == "ann"
    assert said.extra == {"sid": "7"}
    assert (said.expires_at - said.issued_at).total_seconds() == 60
    assert len(said.id) >= 22  # 128 bits


def test_a_well_formed_forgery_passes_so_that_the_refusals_below_mean_something() -> None:
    assert tokens.verify(forged({"alg": "HS256"}, claims()), "access").subject == "ann"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "HS384"},
        {"alg": "RS256"},
        {"alg": ["HS256"]},
        {"alg": None},
        {},
        {"alg": "HS256", "kid": 1},
        {"alg": "HS256", "kid": {"a": 1}},
        {"alg": "HS256", "jku": "https://attacker.example/keys"},
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}},
        {"alg": "HS256", "x5u": "https://attacker.example/keys"},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "b64": False},
        {"alg": "HS256", "zip": "DEF"},
    ],
)
def test_s1_hostile_headers_are_refused_although_the_signature_is_right(
    header: dict[str, Any],
) -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(forged(header, claims()), "access")


@pytest.mark.parametrize("kid", ["../../../dev/null", "' OR 1=1 --", "", "\x00", "x" * 500])
def test_s1_the_key_id_is_a_hint_and_chooses_nothing(kid: str) -> None:
    assert tokens.verify(forged({"alg": "HS256", "kid": kid}, claims()), "access")
    with pytest.raises(InvalidToken):
        tokens.verify(forged({"alg": "HS256", "kid": kid}, claims(), key=b""), "access")


GOOD = tokens.issue("access", subject="ann", ttl=60)
HEAD, BODY, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        HEAD,
        f"{HEAD}.{BODY}",
        f"{HEAD}.{BODY}.",
        f".{BODY}.{SIGNATURE}",
        f"{HEAD}..{SIGNATURE}",
        f"{GOOD}.",
        f"{GOOD}.x",
        f"{GOOD}=",
        f"{GOOD}\n",
        f" {GOOD}",
        f"{GOOD}\x00",
        f"{HEAD}.{BODY}\x00.{SIGNATURE}",
        f"{HEAD}.{BODY}.{SIGNATURE[:-1]}",
        f"{HEAD}.{BODY}.{'é' * 43}",
        f"{HEAD}.{BODY}." + "\ud800" * 43,
        "\u0661." + GOOD,
        "x" * 5_000_000,
        f"{HEAD}.{'A' * 5000}.{SIGNATURE}",
        f"{encoded(b'[' * 2900)}.{BODY}.{SIGNATURE}",
        f"{encoded(b'9' * 2900)}.{BODY}.{SIGNATURE}",
        f"{encoded(b'[]')}.{BODY}.{SIGNATURE}",
        f"{encoded(b'null')}.{BODY}.{SIGNATURE}",
        f"{encoded(bytes(range(128, 160)))}.{BODY}.{SIGNATURE}",
        jwt.encode({"sub": "ann"}, None, "none"),
    ],
    ids=lambda token: f"{len(token)} characters",
)
def test_s1_hostile_texts_are_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(token, "access")


def test_s1_a_token_has_one_spelling() -> None:
    # The last character holds two bits that base64 does not use.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = alphabet[alphabet.index(GOOD[-1]) ^ 1]
    with pytest.raises(InvalidToken):
        tokens.verify(GOOD[:-1] + twin, "access")


@pytest.mark.parametrize("payload", [b"[]", b"null", b"1", b"{", b"\xff", b"[" * 2900])
def test_s2_a_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(forged({"alg": "HS256"}, payload), "access")


TEXTS, NUMBERS = ("iss", "aud", "kind", "sub", "jti"), ("iat", "exp")
WRONG = [
    *((name, value) for name in TEXTS for value in (..., None, 1, True, [], ["ferrule"], {})),
    *((name, value) for name in NUMBERS for value in (..., None, True, 1.5, [], {}, "9999999999")),
    *((name, "") for name in ("iss", "aud", "kind", "iat", "exp")),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_s2_every_claim_is_required_and_of_its_type(name: str, value: Any) -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(forged({"alg": "HS256"}, claims(**{name: value})), "access")


@pytest.mark.parametrize(
    "changes",
    [{"exp": int(time.time()) - 1}, {"iat": int(time.time()) + 3600}, {"kind": "refresh"}],
)
def test_s2_expired_from_the_future_and_of_another_kind_are_refused(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(forged({"alg": "HS256"}, claims(**changes)), "access")


def test_s2_a_token_of_one_kind_is_none_of_another() -> None:
    refresh = tokens.issue("refresh", subject="ann", ttl=60)
    with pytest.raises(InvalidToken):
        tokens.verify(refresh, "access")
    # Not even with the kind rewritten: each kind has keys of its own.
    other = Secrets([NEW]).signing_key("token:refresh")
    with pytest.raises(InvalidToken):
        tokens.verify(forged({"alg": "HS256"}, claims(), key=other), "access")


def test_the_secret_key_itself_signs_nothing() -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(forged({"alg": "HS256"}, claims(), key=NEW.encode()), "access")


def test_k2_keys_rotate() -> None:
    before = Tokens([OLD]).issue("access", subject="ann", ttl=60)
    both = Tokens([NEW, OLD])
    assert both.verify(before, "access").subject == "ann"
    after = both.issue("access", subject="ann", ttl=60)
    assert Tokens([NEW]).verify(after, "access").subject == "ann"
    for token, key in ((before, NEW), (after, OLD)):
        with pytest.raises(InvalidToken):
            Tokens([key]).verify(token, "access")


def test_a_refusal_says_so_to_the_client() -> None:
    with pytest.raises(InvalidToken) as refused:
        tokens.verify("x", "access")
    assert refused.value.code == "invalid_token"
    assert refused.value.status == 401
    assert refused.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
