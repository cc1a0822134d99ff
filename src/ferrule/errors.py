"""Expected errors: each has a status and a stable code; `http/problems.py` renders them all.

Error
├── Invalid (422)            ├── NotFound (404)        ├── TooManyRequests (429)
├── Unauthenticated (401)    ├── Conflict (409)        └── Unavailable (503)
├── Forbidden (403)          └── PreconditionFailed (412)

ConfigurationError: the application cannot start; the command line answers with exit status 2.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict

from starlette.exceptions import HTTPException


class FieldError(TypedDict):
    """One refused field: where it stands, a stable code, what is accepted. Never its value."""

    loc: list[str | int]
    code: str
    detail: str


class Error(HTTPException):
    """An expected failure, answered as problem+json.

    `detail` is read by people and must not hold the refused value, a path, SQL or a secret.
    It is an `HTTPException`, so that FastAPI lets it through wherever it is raised.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal Server Error"
    keeps_writes: ClassVar[bool] = False
    """The unit of work commits although this is raised: for refusals that must leave a trace."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(self.status, detail or self.title, dict(headers) if headers else None)
        self.errors = list(errors)


class Invalid(Error):
    """The request is understood and refused; `errors` names the fields."""

    status, code, title = 422, "validation_error", "Unprocessable Content"

    @classmethod
    def field(cls, *loc: str | int, code: str, detail: str) -> "Invalid":
        """Refuse one field, as in `Invalid.field("body", "email", code="taken", detail="…")`."""
        return cls(
            "The request has invalid fields.",
            errors=[{"loc": list(loc), "code": code, "detail": detail}],
        )


class Unauthenticated(Error):
    """Nobody is signed in, or what was shown is not valid (any more)."""

    status, code, title = 401, "unauthenticated", "Unauthorized"

    def __init__(self, detail: str = "Sign in to do this.") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Error):
    """Signed in, but not allowed. What must not be known to exist is a `NotFound` instead."""

    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(Error):
    """It does not exist, or it is not yours: the answer is the same."""

    status, code, title = 404, "not_found", "Not Found"


class Conflict(Error):
    """The change contradicts what is stored."""

    status, code, title = 409, "conflict", "Conflict"


class PreconditionFailed(Error):
    """`If-Match` names another revision than the stored one."""

    status, code, title = 412, "precondition_failed", "Precondition Failed"


class TooManyRequests(Error):
    """The caller asks too often; `Retry-After` says when to ask again."""

    status, code, title = 429, "too_many_requests", "Too Many Requests"


class Unavailable(Error):
    """Nothing was written; the same request can succeed later."""

    status, code, title = 503, "unavailable", "Service Unavailable"

    def __init__(
        self, detail: str = "The service is busy. Try again shortly.", *, retry_after: int = 1
    ) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Draining(Unavailable):
    """The server is about to stop, and takes no new live connections."""

    code = "draining"

    def __init__(self) -> None:
        super().__init__("The server is about to stop. Connect again.")


class ConfigurationError(Exception):
    """The application cannot start as it is configured or composed. The text says what to do."""
