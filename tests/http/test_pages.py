"""The pages, in a browser: documentation that authorizes, and the first administrator's."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser import browser
from tests.server import Server

pytestmark = pytest.mark.external

PASSWORD = "correct horse battery staple"


async def test_the_first_administrator_is_made_and_the_docs_authorize(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    server = make_server()
    server.start()
    base = f"http://127.0.0.1:{server.port}"
    link = re.search(rf"{base}/setup#token=\S+", server.output())
    assert link is not None, server.output()
    async with browser(tmp_path) as page:
        await page.open(link[0])
        await page.until("document.querySelector('[name=password]')")
        await page.fill(email="root@example.com", name="Root", password="short")
        await page.run("document.querySelector('button').click()")
        problem = await page.until("document.querySelector('[role=alert]').textContent")
        assert "15 characters" in problem
        await page.fill(password=PASSWORD)
        await page.run("document.querySelector('button').click()")
        await page.until("!document.querySelector('form')")
        assert [text for text in page.complaints if "422" not in text] == []

        await page.open(f"{base}/docs")
        await page.until("document.querySelector('.btn.authorize')")
        await page.run("document.querySelector('.btn.authorize').click()")
        await page.until("document.querySelector('#oauth_username, [name=username]')")
        await page.run("document.querySelector('#oauth_username, [name=username]').focus()")
        await page.command("Input.insertText", text="root@example.com")
        await page.run("document.querySelector('#oauth_password, [name=password]').focus()")
        await page.command("Input.insertText", text="short" + PASSWORD)
        await page.run("document.querySelector('.auth-btn-wrapper .authorize').click()")
        await page.until("document.body.textContent.includes('Logout')")
        assert [text for text in page.complaints if "422" not in text] == []

        await page.open(f"{base}/redoc")
        await page.until("document.body.textContent.includes('/api/v1/items')")
        assert [text for text in page.complaints if "422" not in text] == []
