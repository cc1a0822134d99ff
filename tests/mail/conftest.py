"""A real SMTP server on this machine, which keeps what it takes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword

from ferrule.mail import MailSettings

SENDER = "The Shop <mail@shop.test>"


@dataclass
class Post:
    """What the server was given, and how it is to answer."""

    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    to_recipient: str | None = None
    to_data: str = "250 OK"
    port: int = 0

    async def handle_RCPT(
        self, server: SMTP, session: Any, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.to_recipient is not None:
            return self.to_recipient
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:
        if self.to_data.startswith("250"):
            self.envelopes.append(envelope)
            content = envelope.original_content or b""
            self.mails.append(BytesParser(EmailMessage, policy=default).parsebytes(content))
        return self.to_data

    def authenticate(
        self, server: SMTP, session: Any, envelope: Envelope, mechanism: str, login: Any
    ) -> AuthResult:
        assert isinstance(login, LoginPassword)
        pair = (login.login.decode(), login.password.decode())
        self.logins.append(pair)
        return AuthResult(success=pair == ("shop", "open sesame"), handled=False)

    def settings(self, **values: Any) -> MailSettings:
        """Settings that lead here."""
        here = {"host": "localhost", "port": self.port, "sender": SENDER, "encryption": "none"}
        return MailSettings(**{**here, "timeout": 5, **values})


Serve = Callable[..., Awaitable[Post]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server on the loop of the test; keywords are those of aiosmtpd.

    aiosmtpd's own controller stops the loop of its thread and may leave connections half closed.
    """
    servers: list[asyncio.Server] = []
    connections: list[SMTP] = []

    async def start(*, ssl_context: ssl.SSLContext | None = None, **options: Any) -> Post:
        post = Post()
        loop = asyncio.get_running_loop()

        def connected() -> SMTP:
            authenticator = post.authenticate
            smtp = SMTP(post, hostname="here", loop=loop, authenticator=authenticator, **options)
            connections.append(smtp)
            return smtp

        server = await loop.create_server(connected, "127.0.0.1", 0, ssl=ssl_context)
        servers.append(server)
        post.port = server.sockets[0].getsockname()[1]
        return post

    yield start
    for server in servers:
        server.close()
    for connection in connections:
        if connection.transport is not None:
            connection.transport.close()
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def post(serve: Serve) -> Post:
    return await serve()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    """The server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts the authority."""
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
