"""Google's Wycheproof vectors for JSON web signatures, at the function that opens our tokens."""

import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest

from ferrule.security.tokens import InvalidToken, open_token

VECTORS = Path(__file__).parents[2].parent / "shared/vectors/wycheproof-json-web-signature.json"
LENIENT = {372, 373}
"""Marked valid for libraries that skip characters outside of base64url; we refuse them."""


def _groups() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        return []
    return json.loads(VECTORS.read_text())["testGroups"]


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _cases(*, ours: bool) -> list[Any]:
    cases: list[Any] = []
    for group in _groups():
        key = group.get("private", group.get("public"))
        if (key["kty"] == "oct") is not ours:
            continue
        valid = {str(test["jws"]) for test in group["tests"] if test["result"] == "valid"}
        for test in group["tests"]:
            # Two of the invalid ones are, letter by letter, a valid one.
            expected = str(test["jws"]) in valid and test["tcId"] not in LENIENT
            name = f"{test['tcId']}-{test['comment']}"
            cases.append(pytest.param(key, str(test["jws"]), expected, id=name))
    return cases


@pytest.mark.skipif(not VECTORS.exists(), reason="the vectors are not beside the repository")
def test_s1_the_vectors_are_there() -> None:
    assert len(_cases(ours=True)) == 40
    assert len(_cases(ours=False)) == 361


@pytest.mark.parametrize(("key", "token", "expected"), _cases(ours=True))
def test_s1_wycheproof_hs256(key: dict[str, str], token: str, expected: bool) -> None:
    try:
        open_token(token, [_bytes(key["k"])])
    except InvalidToken:
        assert not expected
    else:
        assert expected


@pytest.mark.parametrize(("key", "token", "expected"), _cases(ours=False))
def test_s1_wycheproof_other_algorithms_are_refused(
    key: dict[str, str], token: str, expected: bool
) -> None:
    # Algorithm confusion: the attacker knows the public key.
    public = [_bytes(key[name]) for name in ("n", "x") if name in key]
    with pytest.raises(InvalidToken):
        open_token(token, [*public, json.dumps(key).encode()])
