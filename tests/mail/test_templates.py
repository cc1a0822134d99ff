"""Mails are written from templates of modules, which an application may replace."""

from pathlib import Path

import pytest

from ferrule import ConfigurationError, Module, create_app
from ferrule.mail import MailSettings, Templates
from ferrule.settings import Settings

TEXT = "Subject: Thank you, {{ name }}\n\nDear {{ name }},\nwe took {{ price }}.\n"
HTML = """{% extends "mail/layout.html" %}
{% block title %}Thank you{% endblock %}
{% block content %}<p>Dear {{ name }}</p>{% endblock %}
"""
VALUES = {"name": "Ann & <Bob>", "price": "1.50 €"}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "receipt.txt").write_text(TEXT, encoding="utf-8")
    (folder / "receipt.html").write_text(HTML, encoding="utf-8")
    return folder


def test_text_and_html_of_one_name(shop: Path) -> None:
    mail = Templates({"shop": shop}).write("shop/receipt", VALUES, to="ann@example.com", key="1")
    assert (mail.to, mail.key) == ("ann@example.com", "1")
    assert mail.subject == "Thank you, Ann & <Bob>"
    assert mail.text == "Dear Ann & <Bob>,\nwe took 1.50 €.\n"
    assert mail.html is not None
    assert "<p>Dear Ann &amp; &lt;Bob&gt;</p>" in mail.html
    assert mail.html.startswith("<!doctype html>")


def test_html_may_be_left_out(shop: Path) -> None:
    (shop / "receipt.html").unlink()
    mail = Templates({"shop": shop}).write("shop/receipt", VALUES, to="ann@example.com", key="1")
    assert mail.html is None


def test_an_application_has_its_own_words(shop: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "shop").mkdir(parents=True)
    (own / "shop" / "receipt.txt").write_text("Subject: Danke\nLiebe {{ name }}")
    templates = Templates({"shop": shop}, instead=own)
    mail = templates.write("shop/receipt", VALUES, to="ann@example.com", key="1")
    assert (mail.subject, mail.text) == ("Danke", "Liebe Ann & <Bob>")
    assert mail.html is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Dear {{ name }}", "first line of shop/receipt.txt is not `Subject: …`"),
        ("Subject: \n\nDear", "first line of shop/receipt.txt is not `Subject: …`"),
        ("Subject: {{ nobody }}\n", "'nobody' is undefined"),
        ("Subject: {{ name\n", "TemplateSyntaxError"),
        ("Subject: {% include 'shop/other.txt' %}\n", "shop/other.txt"),
    ],
)
def test_what_is_wrong_is_told(shop: Path, text: str, problem: str) -> None:
    (shop / "receipt.txt").write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        Templates({"shop": shop}).write("shop/receipt", VALUES, to="ann@example.com", key="1")


@pytest.mark.parametrize("name", ["shop/nothing", "receipt", "other/receipt", "shop/../secret"])
def test_what_is_missing_is_told(shop: Path, name: str) -> None:
    (shop.parent / "secret.txt").write_text(TEXT)
    with pytest.raises(ConfigurationError, match="TemplateNotFound"):
        Templates({"shop": shop}).write(name, VALUES, to="ann@example.com", key="1")


def test_a_layout_that_is_missing_is_told(shop: Path) -> None:
    (shop / "receipt.html").write_text('{% extends "mail/nothing.html" %}')
    with pytest.raises(ConfigurationError, match=r"mail/nothing\.html"):
        Templates({"shop": shop}).write("shop/receipt", VALUES, to="ann@example.com", key="1")


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    for folders, instead in (({"shop": tmp_path / "no"}, None), ({}, tmp_path / "no")):
        with pytest.raises(ConfigurationError, match="There is no folder"):
            Templates(folders, instead=instead)


async def test_the_kit_offers_those_of_the_modules(shop: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "shop").mkdir(parents=True)
    (own / "shop" / "receipt.txt").write_text("Subject: Danke\n")
    app = create_app(
        Settings(mail=MailSettings(templates=own)), modules=[Module(name="shop", mails=shop)]
    )
    async with app.opened() as kit:
        mail = kit[Templates].write("shop/receipt", VALUES, to="ann@example.com", key="1")
    assert mail.subject == "Danke"
    assert mail.html is not None
