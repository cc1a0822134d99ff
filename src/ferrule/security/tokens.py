"""Signed tokens: JWTs (RFC 7519) of ours, HS256, hardened after RFC 8725."""

import json
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast

import jwt
from pydantic import SecretStr

from ferrule.errors import Unauthenticated
from ferrule.security.secrets import Secrets

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "ferrule"
MAX_TOKEN = 4096
"""Characters of a token; a longer one is refused unread."""
LEEWAY = 30
"""Seconds that the clocks of our machines may differ, for tokens from the future."""
_REGISTERED = ("iss", "aud", "sub", "jti", "kind", "iat", "exp")
_HEADER = frozenset({"alg", "typ", "kid"})
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Any: where cryptography is not installed, PyJWT's types have unknown parts.
_jwt: Any = jwt.PyJWT()
_jws: Any = jwt.PyJWS()


class InvalidToken(Unauthenticated):
    """A token was shown that is not ours, not of this kind, expired or revoked."""

    code = "invalid_token"

    def __init__(self, detail: str = "The token is not valid (any more). Sign in again.") -> None:
        super().__init__(detail)
        self.headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says; `extra` holds what its issuer added."""

    kind: str
    subject: str
    id: str
    issued_at: datetime
    expires_at: datetime
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Tokens:
    """Issues and verifies signed tokens; the first key signs, all verify.

    Each kind of token has keys of its own, derived from the secret keys, so that a token of one
    kind is never taken for another.
    """

    def __init__(self, keys: Sequence[SecretStr | str]) -> None:
        self._secrets = Secrets(keys)

    def issue(
        self,
        kind: str,
        *,
        subject: str,
        ttl: float,
        claims: Mapping[str, Any] | None = None,
        id: str | None = None,
        issued_at: datetime | None = None,
    ) -> str:
        """A token that is valid for `ttl` seconds; its `id` (jti) is random where none is given."""
        now = int(issued_at.timestamp() if issued_at else time.time())
        payload = {
            **(claims or {}),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "jti": id or secrets.token_urlsafe(24),
            "kind": kind,
            "iat": now,
            "exp": now + int(ttl),
        }
        key = self._secrets.signing_key(_purpose(kind))
        return _jwt.encode(payload, key, ALGORITHM, headers={"kid": _key_id(key)})

    def verify(self, token: str, kind: str) -> Claims:
        """What a token of this kind says; `InvalidToken` for anything else."""
        payload = open_token(token, self._secrets.verifying_keys(_purpose(kind)))
        return _checked(_object(payload), kind)


def open_token(token: str, keys: Sequence[bytes]) -> bytes:
    """The payload of a token that one of the keys signed; `InvalidToken` for anything else.

    PyJWT verifies; beyond it, only the one spelling is taken that `jwt.encode` produces (base64url
    has others for the same bytes), and no header but ours. The key id is a hint of what to try
    first.
    """
    if len(token) > MAX_TOKEN or _COMPACT.fullmatch(token) is None:
        raise InvalidToken
    head, _, _ = (_decoded(part) for part in token.split("."))
    header = _object(head)
    # jku, jwk, x5u name a key of the attacker, crit and b64 another meaning: none is ours.
    if header.get("alg") != ALGORITHM or not _HEADER.issuperset(header):
        raise InvalidToken
    kid = header.get("kid", "")
    if not isinstance(kid, str):
        raise InvalidToken
    if len(keys) > 1:
        keys = sorted(keys, key=lambda key: _key_id(key) != kid)
    for key in keys:
        try:
            return _jws.decode(token, key, algorithms=[ALGORITHM])
        except jwt.InvalidSignatureError:
            continue
        except jwt.PyJWTError:
            break
    raise InvalidToken


def _checked(claims: dict[str, Any], kind: str) -> Claims:
    now = time.time()
    expected = {"iss": ISSUER, "aud": AUDIENCE, "kind": kind}
    if (
        any(claims.get(name) != value for name, value in expected.items())
        or not all(isinstance(claims.get(name), str) for name in ("sub", "jti"))
        or not all(type(claims.get(name)) is int for name in ("iat", "exp"))
        or claims["exp"] <= now
        or claims["iat"] > now + LEEWAY
    ):
        raise InvalidToken
    return Claims(
        kind=kind,
        subject=claims["sub"],
        id=claims["jti"],
        issued_at=datetime.fromtimestamp(claims["iat"], UTC),
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        extra={name: value for name, value in claims.items() if name not in _REGISTERED},
    )


def _purpose(kind: str) -> str:
    return f"token:{kind}"


def _key_id(key: bytes) -> str:
    return sha256(b"key id" + key).hexdigest()[:8]


def _decoded(part: str) -> bytes:
    """The bytes of a part in its one spelling."""
    if len(part) % 4 == 1:
        raise InvalidToken
    data = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise InvalidToken
    return data


def _object(text: bytes) -> dict[str, Any]:
    try:
        value: Any = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise InvalidToken from None
    if not isinstance(value, dict):
        raise InvalidToken
    return cast(dict[str, Any], value)
