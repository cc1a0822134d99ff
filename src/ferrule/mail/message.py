"""A mail, and the message that it is sent as."""

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from ferrule.db.types import utcnow

if TYPE_CHECKING:
    from email.headerregistry import Address
    from email.message import EmailMessage

NOBODY = "Ferrule <ferrule@printed.test>"
"""The sender where none is set, which is only for mails that are printed."""


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One mail to one person.

    `key` tells it from every other mail: sent again, it has the same Message-ID, by which servers
    and readers know it. A job gives its own id, or what it is about.
    """

    key: str
    to: str
    subject: str
    text: str
    html: str | None = None
    reply_to: str | None = None


def compose(mail: Mail, sender: str) -> "EmailMessage":
    """The message, from a sender as in `Shop <mail@shop.org>`.

    Raises `ValueError` for an address that is none.
    """
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import format_datetime

    source = sender_address(sender)
    message = EmailMessage(policy=SMTP)
    message["From"] = source
    message["To"] = _address(mail.to)
    if mail.reply_to is not None:
        message["Reply-To"] = _address(mail.reply_to)
    message["Subject"] = _one_line(mail.subject)
    message["Date"] = format_datetime(utcnow())
    digest = sha256(mail.key.encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{digest}@{source.domain}>"
    # Nobody's absence is to be answered to a machine (RFC 3834, section 5).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
    return message


def sender_address(sender: str) -> "Address":
    """The address and the name of `Shop <mail@shop.org>`. Raises `ValueError`."""
    from email.utils import parseaddr

    name, address = parseaddr(sender)
    return _address(address, name)


def _address(text: str, name: str = "") -> "Address":
    from email.headerregistry import Address

    from email_validator import validate_email

    # EmailNotValidError is a ValueError. A server of one's own may take mails for hosts it knows.
    known = validate_email(
        text, check_deliverability=False, test_environment=True, globally_deliverable=False
    )
    return Address(_one_line(name), known.local_part, known.ascii_domain)


def _one_line(text: str) -> str:
    """Text for a header, which ends at a line feed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
