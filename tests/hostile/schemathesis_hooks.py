"""What Schemathesis is told beyond the OpenAPI document: how to sign in, and what it cannot say."""

import os
from functools import cache
from uuid import uuid4

import requests
import schemathesis
from schemathesis import AuthContext, Case, HookContext
from schemathesis.generation import GenerationMode

LOGOUT = "POST /api/v1/auth/logout"
PAGING = ("offset", "page", "cursor")


@schemathesis.auth(refresh_interval=None, retry_on=[])
class SignedIn:
    """One access token for the run; a logout gets one of its own, which it ends."""

    token: str | None = None

    def get(self, case: Case, context: AuthContext) -> str:
        if context.operation.label == LOGOUT:
            return _sign_in(case)
        if SignedIn.token is None:
            SignedIn.token = _sign_in(case)
        return SignedIn.token

    def set(self, case: Case, data: str, context: AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook("before_call")
def spare_oneself(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """An administrator could disable or demote the account that the run is signed in with."""
    named = case.path_parameters.get("id") if case.path.endswith("/users/{id}") else None
    if named is not None and case.method != "GET" and named == _own_id(case):
        case.path_parameters["id"] = str(uuid4())


@schemathesis.hook("before_call")
def page_one_way(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """Ways of paging exclude each other, and a cursor is signed: OpenAPI can say neither.

    https://github.com/OAI/OpenAPI-Specification/issues/256
    """
    mode = case.meta.generation.mode if case.meta else None
    if mode is GenerationMode.POSITIVE and isinstance(case.query, dict):
        given = [name for name in PAGING if name in case.query]
        for name in {*given[1:], "cursor"}:
            case.query.pop(name, None)


@cache
def _known_id(base: str, token: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.get(f"{base}/api/v1/users/me", headers=headers, timeout=30)
    answer.raise_for_status()
    id: str = answer.json()["id"]
    return id


def _own_id(case: Case) -> str:
    if SignedIn.token is None:
        SignedIn.token = _sign_in(case)
    return _known_id(_base(case), SignedIn.token)


def _base(case: Case) -> str:
    return case.operation.schema.get_base_url().rstrip("/")


def _sign_in(case: Case) -> str:
    form = {
        "username": os.environ["SCHEMATHESIS_EMAIL"],
        "password": os.environ["SCHEMATHESIS_PASSWORD"],
    }
    answer = requests.post(f"{_base(case)}/api/v1/auth/login", data=form, timeout=30)
    answer.raise_for_status()
    token: str = answer.json()["access_token"]
    return token
