"""E-mail addresses: one spelling for each, so that two accounts cannot share one."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_EMAIL = 320


def normal(address: str) -> str:
    """The address as it is stored: composed (NFC) and in lower case, also before the @.

    Raises `ValueError` for what is no address. Nobody's mail provider tells `Ann@` from `ann@`.
    """
    # A start does not wait for the patterns that it compiles.
    from email_validator import EmailNotValidError, validate_email

    try:
        # Nobody's mail goes to .test either, which is what people try things with (RFC 6761).
        known = validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        raise ValueError("not an e-mail address") from None
    return unicodedata.normalize("NFC", known.normalized.lower())


def _checked(address: str) -> str:
    try:
        return normal(address)
    except ValueError:
        raise PydanticCustomError("email_invalid", "This is not an e-mail address.") from None


Email = Annotated[
    str,
    Field(max_length=MAX_EMAIL),
    AfterValidator(_checked),
    WithJsonSchema(
        {
            "type": "string",
            "format": "email",
            "maxLength": MAX_EMAIL,
            "examples": ["ann@example.com"],
        }
    ),
]
