"""The routes of accounts and logins."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Header, Request, Response
from fastapi.responses import JSONResponse

from ferrule.actor import Administrator, Anyone, SignedIn
from ferrule.db import Read, Write
from ferrule.http.etag import IfMatchHeader, etag
from ferrule.http.problems import MEDIA_TYPE
from ferrule.modules.auth import logins, service
from ferrule.modules.auth import users as accounts
from ferrule.modules.auth.models import User
from ferrule.modules.auth.schemas import (
    Accepted,
    LoginForm,
    MePatch,
    Refresh,
    Register,
    Setup,
    TokenPair,
    UserCreate,
    UserPatch,
    UserReplace,
    UserResponse,
)
from ferrule.modules.auth.users import users
from ferrule.resources import resource_router

NO_STORE = {"Cache-Control": "no-store"}
"""For answers with tokens in them (RFC 6749, section 5.1)."""


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


REFUSED: dict[int | str, dict[str, Any]] = {401: _problem("What was shown is not valid")}
CLOSED: dict[int | str, dict[str, Any]] = {
    202: {"model": Accepted, "description": "Registration is `verified`: always this answer"},
    403: _problem("Registration is `closed`"),
}

auth = APIRouter(prefix="/auth", tags=["auth"])
me = APIRouter(prefix="/users", tags=["users"])
administration = resource_router(users, without={"create", "replace", "update"})


@auth.post(
    "/register",
    response_model=UserResponse,
    status_code=201,
    responses=CLOSED,
    summary="Make an account",
)
async def register(
    data: Register, session: Write, actor: Anyone, request: Request, response: Response
) -> User | JSONResponse:
    """With `open` registration a taken address is told by 409; with `verified` by nothing."""
    user = await service.register(session, actor, data)
    if user is None:
        waiting = Accepted(detail="If the address is new, an administrator will let you in.")
        return JSONResponse(waiting.model_dump(), 202)
    response.headers["Location"] = _me(request)
    return _with_etag(response, user)


@auth.post("/login", responses=REFUSED, summary="Sign in")
async def login(
    data: Annotated[LoginForm, Form()],
    read: Read,
    session: Write,
    actor: Anyone,
    response: Response,
    user_agent: Annotated[str, Header(include_in_schema=False)] = "",
) -> TokenPair:
    response.headers.update(NO_STORE)
    return await service.login(read, session, actor, data, user_agent)


@auth.post("/refresh", responses=REFUSED, summary="Renew a login")
async def refresh(data: Refresh, session: Write, actor: Anyone, response: Response) -> TokenPair:
    """A refresh token is used once; asking again within seconds (a lost answer) is safe."""
    response.headers.update(NO_STORE)
    return await logins.refresh(session, data.refresh_token)


@auth.post("/logout", status_code=204, summary="Sign out")
async def logout(session: Write, actor: SignedIn) -> None:
    """Ends the login that the access token belongs to, at once."""
    await logins.end_login(session, actor)


@auth.post(
    "/setup",
    response_model=UserResponse,
    status_code=201,
    responses=REFUSED,
    summary="Make the first administrator",
)
async def set_up(
    data: Setup, read: Read, session: Write, actor: Anyone, request: Request, response: Response
) -> User:
    """The token stands in the link that the server prints when it starts without one."""
    user = await service.set_up(read, session, actor, data)
    response.headers["Location"] = _me(request)
    return _with_etag(response, user)


@me.get("/me", response_model=UserResponse, summary="Get your account")
async def read_me(session: Read, actor: SignedIn, response: Response) -> User:
    return _with_etag(response, await users.get(session, actor, actor.user_id))


@me.patch("/me", response_model=UserResponse, summary="Change your account")
async def update_me(
    data: MePatch,
    session: Write,
    actor: SignedIn,
    response: Response,
    if_match: IfMatchHeader,
) -> User:
    user = await accounts.update_user(session, actor, actor.user_id, data, if_match)
    return _with_etag(response, user)


@administration.post(
    "", response_model=UserResponse, status_code=201, summary="Create one of users"
)
async def create_user(
    data: UserCreate, session: Write, actor: Administrator, request: Request, response: Response
) -> User:
    user = await accounts.create_user(session, actor, data)
    response.headers["Location"] = f"{request.url.path}/{user.id}"
    return _with_etag(response, user)


@administration.put("/{id:uuid}", response_model=UserResponse, summary="Replace one of users")
async def replace_user(
    id: UUID,
    data: UserReplace,
    session: Write,
    actor: Administrator,
    response: Response,
    if_match: IfMatchHeader,
) -> User:
    user = await accounts.replace_user(session, actor, id, data, if_match)
    return _with_etag(response, user)


@administration.patch("/{id:uuid}", response_model=UserResponse, summary="Change one of users")
async def update_user(
    id: UUID,
    data: UserPatch,
    session: Write,
    actor: Administrator,
    response: Response,
    if_match: IfMatchHeader,
) -> User:
    user = await accounts.update_user(session, actor, id, data, if_match)
    return _with_etag(response, user)


router = APIRouter()
router.include_router(auth)
# Before /users/{id}, which would take "me" for an id.
router.include_router(me)
router.include_router(administration)


def _with_etag(response: Response, user: User) -> User:
    response.headers["ETag"] = etag(user.revision)
    return user


def _me(request: Request) -> str:
    return request.url.path.rpartition("/auth/")[0] + "/users/me"
