"""What comes in and goes out."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field

from ferrule.modules.auth.emails import MAX_EMAIL, Email
from ferrule.modules.auth.settings import MAX_PASSWORD
from ferrule.schemas import Schema, Stored, TextSchema, from_settings, patch_of

# Control characters, and what turns or hides text around it (I4): a name is shown to other people.
_VISIBLE = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]*$"

Name = Annotated[str, Field(max_length=100, pattern=_VISIBLE, examples=["Ann"])]
Password = Annotated[str, Field(min_length=1, max_length=MAX_PASSWORD)]
NewPassword = Annotated[
    Password,
    Field(
        json_schema_extra=from_settings(
            minLength="auth.password_min", maxLength="auth.password_max"
        )
    ),
]
Token = Annotated[str, Field(max_length=4096)]
Role = Annotated[str, Field(max_length=50, pattern=r"^[a-z][a-z0-9_.-]*$", examples=["admin"])]


def _each_once(roles: list[str]) -> list[str]:
    return sorted(set(roles))


Roles = Annotated[list[Role], Field(max_length=20), AfterValidator(_each_once)]


class Register(Schema):
    """A new account."""

    email: Email
    password: NewPassword = Field(repr=False)
    name: Name = ""


class Accepted(Schema):
    """It was taken in; there is no more to say yet."""

    detail: str


class LoginForm(TextSchema):
    """The form of OAuth2's password grant (RFC 6749, section 4.3.2)."""

    # The same section: what a server does not know it ignores.
    model_config = ConfigDict(extra="ignore")

    grant_type: Literal["password"] = "password"
    username: str = Field(max_length=MAX_EMAIL, description="The e-mail address.")
    password: Password = Field(repr=False)


class Refresh(Schema):
    refresh_token: Token = Field(repr=False)


class TokenPair(Schema):
    """The access token goes into `Authorization: Bearer`; the refresh token is good for one use."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(description="Seconds that the access token lives.")


class Setup(Schema):
    """The first administrator; `token` stands in the link that the first start prints."""

    token: Token = Field(repr=False)
    email: Email
    password: NewPassword = Field(repr=False)
    name: Name = ""


class UserResponse(Stored):
    """An account, as it and administrators see it."""

    id: UUID
    email: str
    name: str
    roles: list[str]
    disabled: bool
    verified: bool


class MeUpdate(Schema):
    """What people change of their own account."""

    name: Name


class MePatch(patch_of(MeUpdate)):
    """Changes of one's own account."""


class UserFields(Schema):
    """What administrators set."""

    email: Email
    name: Name = ""
    roles: Roles = Field(default_factory=list[str])
    disabled: bool = False
    verified: bool = True


class UserCreate(UserFields):
    password: NewPassword = Field(repr=False)


class UserReplace(UserFields):
    password: NewPassword | None = Field(
        default=None, repr=False, description="Left out: it stays."
    )


class UserPatch(patch_of(UserCreate)):
    """Changes of an account."""


class UserValues(UserFields):
    """What is stored of a user: the password is hashed. It never comes in from outside."""

    password_hash: str = Field(max_length=255)


UserValuesPatch = patch_of(UserValues)
