"""Mails leave by SMTP, or are printed; what a server answers decides whether to try again."""

import re
import socket
import ssl
from typing import Any

import pytest

from ferrule import Module, create_app
from ferrule.mail import Mail, Mailer, MailFailed, MailRefused
from ferrule.mail.mailers import ConsoleMailer, NoMailer, SmtpMailer, open_mailer
from ferrule.settings import Settings
from tests.mail.conftest import SENDER, Post, Serve

MAIL = Mail(
    key="receipt/1",
    to="ann@example.com",
    subject="Your receipt",
    text="Grüße,\nthe shop\n",
    html="<p>Grüße, the shop</p>",
    reply_to="help@shop.test",
)


async def test_a_mail_arrives_as_it_was_written(post: Post) -> None:
    await SmtpMailer(post.settings()).send(MAIL)
    (mail,), (envelope,) = post.mails, post.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("mail@shop.test", ["ann@example.com"])
    assert mail["From"] == SENDER
    assert (mail["To"], mail["Reply-To"]) == ("ann@example.com", "help@shop.test")
    assert mail["Subject"] == "Your receipt"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime.tzinfo is not None
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == ["Grüße,", "the shop"]
    assert html.get_content().strip() == MAIL.html


async def test_the_key_is_the_message_id(post: Post) -> None:
    mailer = SmtpMailer(post.settings())
    await mailer.send(MAIL)
    await mailer.send(MAIL)
    await mailer.send(Mail(key="receipt/2", to=MAIL.to, subject="Other", text="Other"))
    first, again, other = (mail["Message-ID"] for mail in post.mails)
    assert first == again != other
    assert re.fullmatch(r"<[0-9a-f]{32}@shop\.test>", first)


async def test_no_header_is_smuggled_in(post: Post) -> None:
    subject = "Hello\r\nBcc: eve@example.com\n\n\x00there\u2028"
    await SmtpMailer(post.settings()).send(Mail(key="1", to=MAIL.to, subject=subject, text="."))
    (mail,), (envelope,) = post.mails, post.envelopes
    assert mail["Subject"] == "Hello Bcc: eve@example.com there"
    assert mail["Bcc"] is None
    assert envelope.rcpt_tos == [MAIL.to]


async def test_a_line_with_one_dot_does_not_end_it(post: Post) -> None:
    text = "above\n.\nQUIT\n..below\n"
    await SmtpMailer(post.settings()).send(Mail(key="1", to=MAIL.to, subject="Dots", text=text))
    (mail,) = post.mails
    assert mail.get_content().splitlines() == text.splitlines()


@pytest.mark.parametrize(
    ("to", "arrives"),
    [("ann@bücher.example", "ann@xn--bcher-kva.example"), ("änn@example.com", "änn@example.com")],
)
async def test_addresses_of_all_the_world(serve: Serve, to: str, arrives: str) -> None:
    post = await serve(enable_SMTPUTF8=True)
    await SmtpMailer(post.settings()).send(Mail(key="1", to=to, subject="Grüße", text="."))
    assert post.envelopes[0].rcpt_tos == [arrives]
    assert post.mails[0]["Subject"] == "Grüße"


@pytest.mark.parametrize(
    "to", ["", "ann", "ann@", "ann@example.com\r\nRCPT TO:<eve@example.com>", "a@b, c@d"]
)
async def test_what_is_no_address_is_refused(post: Post, to: str) -> None:
    for mailer in (SmtpMailer(post.settings()), ConsoleMailer()):
        with pytest.raises(MailRefused, match="an address is none"):
            await mailer.send(Mail(key="1", to=to, subject="Hello", text="."))
    assert post.mails == []


@pytest.mark.parametrize("where", ["to_recipient", "to_data"])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [("550 5.1.1 No such user", MailRefused), ("451 4.7.1 Try again later", MailFailed)],
)
async def test_the_server_decides_whether_to_try_again(
    post: Post, where: str, answer: str, kind: type[Exception]
) -> None:
    setattr(post, where, answer)
    with pytest.raises(kind, match=answer):
        await SmtpMailer(post.settings()).send(MAIL)


@pytest.mark.usefixtures("trusted")
async def test_it_signs_in_over_tls(serve: Serve, certificate: ssl.SSLContext) -> None:
    post = await serve(tls_context=certificate, require_starttls=True, auth_required=True)
    login: Any = {"encryption": "starttls", "username": "shop"}
    await SmtpMailer(post.settings(**login, password="open sesame")).send(MAIL)
    assert (len(post.mails), post.logins) == (1, [("shop", "open sesame")])
    # To be mended by who runs it, and then it goes out.
    with pytest.raises(MailFailed, match="535"):
        await SmtpMailer(post.settings(**login, password="wrong")).send(MAIL)


@pytest.mark.usefixtures("trusted")
async def test_tls_from_the_first_byte(serve: Serve, certificate: ssl.SSLContext) -> None:
    post = await serve(ssl_context=certificate)
    await SmtpMailer(post.settings(encryption="tls")).send(MAIL)
    assert len(post.mails) == 1


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_a_certificate_that_nobody_vouches_for(
    serve: Serve, certificate: ssl.SSLContext, encryption: str
) -> None:
    how = "ssl_context" if encryption == "tls" else "tls_context"
    post = await serve(**{how: certificate})
    with pytest.raises(MailFailed, match="certificate"):
        await SmtpMailer(post.settings(encryption=encryption)).send(MAIL)
    assert post.mails == []


async def test_nothing_is_sent_unencrypted_by_mistake(post: Post) -> None:
    with pytest.raises(MailFailed, match="STARTTLS"):
        await SmtpMailer(post.settings(encryption="starttls")).send(MAIL)
    assert post.mails == []


async def test_a_server_that_is_not_there_or_says_nothing(post: Post) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(MailFailed, match="localhost: "):
            await SmtpMailer(post.settings(port=port, timeout=0.2)).send(MAIL)
    with pytest.raises(MailFailed, match="localhost: "):
        await SmtpMailer(post.settings(port=port)).send(MAIL)


async def test_in_development_mails_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    mailer = open_mailer(Settings())
    assert isinstance(mailer, ConsoleMailer)
    await mailer.send(MAIL)
    printed = capsys.readouterr().err
    assert "Mail to ann@example.com" in printed
    assert "Subject: Your receipt" in printed
    assert "  the shop\n" in printed


async def test_in_production_none_is_lost_silently() -> None:
    mailer = open_mailer(Settings(environment="production"))
    assert isinstance(mailer, NoMailer)
    with pytest.raises(MailFailed, match="FERRULE_MAIL__HOST"):
        await mailer.send(MAIL)


async def test_the_kit_offers_it(post: Post) -> None:
    app = create_app(Settings(mail=post.settings()), modules=[Module(name="shop")])
    async with app.opened() as kit:
        await kit[Mailer].send(MAIL)
    assert len(post.mails) == 1
