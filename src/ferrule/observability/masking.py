"""Masks secrets in what is about to be logged, by the name of a key and the shape of a text."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

from pydantic import SecretBytes, SecretStr

MASK = "***"
MAX_TEXT = 16_384
"""Characters of one logged text; the rest is cut off."""
MAX_DEPTH = 6
MAX_ITEMS = 100

_NAMES = (
    r"pass(?:word|wd|phrase|code)|pwd|secret|token|authorization|cookie|credential|refresh"
    r"|(?:api|private|signing|access|encryption)[-_ ]?key|otp|jwt|(?:mfa|recovery)[-_]?codes?"
)
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
_COUNT = re.compile(r"(?:tokens|_count|_ttl|_seconds|_ms)$", re.IGNORECASE)

# Every repetition is bounded and cannot be given back, so that no text takes more than linear time.
_USERINFO = re.compile(r"://(?:[^\s/@:]{0,256}+:)?+[^\s@]{0,512}+(?:@[^\s/@]{0,256}+(?=@)){0,3}@")
_JWT = re.compile(r"eyJ[\w-]{5,400}+\.[\w-]++(?:\.[\w-]*+)*+")
_SCHEME = re.compile(r"\b(bearer|basic)((?:\s|%20|\+){1,4}+)[\w.~+/=%-]{6,}+", re.IGNORECASE)
_VALUE = (
    r"\\{0,3}+\"(?:[^\"\\\n]|\\.){0,4096}+\"?+"
    r"|\\{0,3}+'(?:[^'\\\n]|\\.){0,4096}+'?+"
    r"|[^\s\"'&,;()\[\]{}<>]{1,4096}+"
)
_NAMED = re.compile(
    rf"((?:{_NAMES})[\w-]{{0,64}}+(?:\\{{0,3}}+[\"']?+\s{{0,4}}+[=:]|[\"']\s{{0,4}}+,)\s{{0,4}}+b?)"
    rf"(?:{_VALUE})",
    re.IGNORECASE,
)
_HEADER = re.compile(r"((?:authorization|cookie): {0,4}+)[^\r\n\"']{1,8192}+", re.IGNORECASE)
# Pydantic quotes the refused value in the text of its errors.
_INPUT = re.compile(r"(input_value=)(?:(?!, input_type=)[^\n]){0,1024}+")
# Without one of these no pattern that ignores case can match; looking for them is ten times faster.
_HINTS = (
    *("pass", "pwd", "secret", "token", "auth", "cookie", "cred", "refresh", "key", "otp"),
    *("jwt", "code", "bearer", "basic", "input_"),
)


def mask_text(text: str, limit: int = MAX_TEXT) -> str:
    """The text without credentials: bearer tokens, JWTs, `user:password@host`, `password=…`."""
    if len(text) > limit:
        text = _cut(text, limit)
    if "://" in text:
        text = _USERINFO.sub(f"://{MASK}@", text)
    if "eyJ" in text:
        text = _JWT.sub(MASK, text)
    if len(text) > 8 and _hinted(text.lower()):
        text = _SCHEME.sub(rf"\1\2{MASK}", text)
        text = _HEADER.sub(rf"\1{MASK}", text)
        text = _INPUT.sub(rf"\1{MASK}", text)
        text = _NAMED.sub(rf"\1{MASK}", text)
    return text


def _hinted(text: str) -> bool:
    for hint in _HINTS:  # noqa: SIM110  a generator would double the cost of a log line
        if hint in text:
            return True
    return False


def mask(key: str, value: Any) -> Any:
    """The value that stands by `key`, without secrets, of bounded size, as JSON can hold it."""
    return _masked(key, value, 0)


def _masked(key: str, value: Any, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if is_secret(key) and not (isinstance(value, int | float) and _COUNT.search(key)):
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else _text_of(value, hex)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, SecretStr | SecretBytes):
        return MASK
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(cast(bytes, value))} bytes>"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _container(key, cast(Any, value), depth)
    return _text_of(value, str)


def _container(key: str, value: Any, depth: int) -> Any:
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        pairs = cast(Mapping[Any, Any], value).items()
        named = [(_text_of(name, str), part) for name, part in _first(pairs)]
        return {name: _masked(name, part, depth + 1) for name, part in named}
    parts = cast(Iterable[Any], value)
    # A pair of a list of headers: (b"authorization", b"…").
    if isinstance(value, tuple) and len(pair := cast(tuple[Any, ...], value)) == 2:
        name = pair[0].decode("latin-1") if isinstance(pair[0], bytes) else pair[0]
        if isinstance(name, str) and is_secret(name):
            return [name, MASK]
    return [_masked(key, part, depth + 1) for part in _first(parts)]


def _first(parts: Iterable[Any]) -> list[Any]:
    return [part for part, _ in zip(parts, range(MAX_ITEMS), strict=False)]


def _text_of(value: Any, render: Callable[[Any], str]) -> str:
    try:
        return mask_text(render(value))
    except Exception:  # A log line must not fail for what it tells of.
        return f"<{type(value).__name__}>"


def is_secret(key: str) -> bool:
    """Whether what stands by this name is masked whatever it is."""
    return _known(key) if len(key) <= 64 else _SECRET_NAME.search(key) is not None


@lru_cache(maxsize=1024)
def _known(key: str) -> bool:
    return _SECRET_NAME.search(key) is not None


def _cut(text: str, limit: int) -> str:
    # The last word may be the first half of a secret that its half does not show to be one.
    head = text[:limit]
    words = head[-1024:].rsplit(None, 1)
    end = limit - (len(words[1]) if len(words) == 2 else 1024)
    return f"{head[: max(end, 0)]}… ({len(text)} characters)"
