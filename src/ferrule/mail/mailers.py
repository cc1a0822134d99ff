"""Ways for a mail to leave: by SMTP, or printed to the console."""

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ferrule.mail.message import NOBODY, Mail, compose
from ferrule.mail.settings import MailSettings

if TYPE_CHECKING:
    from email.message import EmailMessage

    from aiosmtplib import SMTPResponseException

    from ferrule.settings import Settings

MAX_REASON = 300
"""Characters of what a server answered, in an error."""


class MailFailed(Exception):
    """The mail did not leave this time: try again later. It tells the reason."""


class MailRefused(Exception):
    """The mail will never be taken: the address or the content is refused. It tells the reason."""


class Mailer(ABC):
    """Sends mails; offered by the kit, `session.kit[Mailer]`. A job calls it, never a request."""

    @abstractmethod
    async def send(self, mail: Mail) -> None:
        """Hand the mail over.

        Raises `MailFailed` and `MailRefused`. After `MailFailed` it may have been taken all the
        same, where the connection was lost as the server answered: it goes out again with the same
        Message-ID.
        """


class SmtpMailer(Mailer):
    """Hands mails to an SMTP server, each on a connection of its own."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings
        self._sender = settings.sender or NOBODY

    async def send(self, mail: Mail) -> None:
        import aiosmtplib as smtp

        settings = self._settings
        message = _composed(mail, self._sender)
        password = settings.password.get_secret_value() if settings.password else None
        try:
            await smtp.send(
                message,
                hostname=settings.host,
                port=settings.port,
                username=settings.username,
                password=password,
                use_tls=settings.encryption == "tls",
                start_tls=settings.encryption == "starttls",
                timeout=settings.timeout,
                # Its own way to find a name asks the DNS, and holds the event loop meanwhile.
                local_hostname=message["From"].addresses[0].domain,
            )
        except smtp.SMTPRecipientsRefused as error:
            raise _answered(error.recipients[0]) from error
        except smtp.SMTPDataError as error:
            raise _answered(error) from error
        except (smtp.SMTPException, OSError) as error:
            # A server that refuses us, not this mail, is to be mended by who runs it.
            reason = str(error) or type(error).__name__
            raise MailFailed(f"{settings.host}: {reason[:MAX_REASON]}") from error


class ConsoleMailer(Mailer):
    """Prints mails to standard error: for development."""

    async def send(self, mail: Mail) -> None:
        message = _composed(mail, NOBODY)
        lines = (
            f"── Mail to {message['To']} ".ljust(72, "─"),
            f"Subject: {message['Subject']}",
            "",
            mail.text.rstrip(),
            "─" * 72,
        )
        print("\n", *(f"  {line}\n" for line in "\n".join(lines).split("\n")),
              sep="", file=sys.stderr, flush=True)  # fmt: skip


class NoMailer(Mailer):
    """Fails, with what to do about it."""

    async def send(self, mail: Mail) -> None:
        raise MailFailed("No mail leaves: set FERRULE_MAIL__HOST and FERRULE_MAIL__SENDER.")


def open_mailer(settings: "Settings") -> Mailer:
    """The mailer that the settings ask for."""
    if settings.mail.host is not None:
        return SmtpMailer(settings.mail)
    return NoMailer() if settings.production else ConsoleMailer()


def _composed(mail: Mail, sender: str) -> "EmailMessage":
    try:
        return compose(mail, sender)
    except ValueError as error:
        raise MailRefused(f"an address is none: {error}") from None


def _answered(error: "SMTPResponseException") -> MailFailed | MailRefused:
    """What an answer to one mail means: 5yz is for good, 4yz for now (RFC 5321, section 4.2.1)."""
    reason = f"{error.code} {error.message[:MAX_REASON]}"
    return MailRefused(reason) if 500 <= error.code < 600 else MailFailed(reason)
