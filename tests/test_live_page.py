"""The page of docs/tutorial/a-live-page.md, in a browser, from the very text of the tutorial."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from httpx import AsyncClient

from tests import documents
from tests.browser import Page, browser
from tests.documents import ROOT
from tests.server import Server

pytestmark = pytest.mark.external

TUTORIAL = ROOT / "docs" / "tutorial"
PASSWORD = "correct horse battery staple"
SHOWN = "[...document.querySelectorAll('li')].map(line => line.textContent).join()"
STATE = "document.querySelector('output').value"
LIVE = ROOT / "docs" / "reference" / "live.md"
LISTEN = f"""
window.heard = [];
window.tickets = 0;
window.ended = null;
window.hear = (said) => {{
  if (said.t === "ev") heard.push(said.data.text);
  if (said.t === "gone") ended = said.code;
}};
window.post = async (path, options) =>
  (await fetch("/api/v1/" + path, {{ method: "POST", ...options }})).json();
window.ticket = async () => {{
  const who = {{ username: "ann@example.com", password: "{PASSWORD}" }};
  const login = await post("auth/login", {{ body: new URLSearchParams(who) }});
  const headers = {{ Authorization: "Bearer " + login.access_token }};
  tickets += 1;
  return (await post("ws/ticket", {{ headers }})).ticket;
}};
listen("notes", {{ ticket, take: hear }});
"""
WATCH = """
window.states = [];
new MutationObserver(() => states.push(document.querySelector("output").value))
  .observe(document.querySelector("output"), { childList: true });
"""


@pytest.fixture
def server(tmp_path: Path, make_server: Callable[..., Server]) -> Server:
    """The tutorial's application, whose access tokens last for as short as they may."""
    documents.write(TUTORIAL / "first-module.md", tmp_path)
    documents.migrate(tmp_path, Path(sys.executable).parent)
    documents.write(TUTORIAL / "a-live-page.md", tmp_path)
    server = make_server(AUTH__ACCESS_TTL="10", STREAMS__DRAIN="1")
    server.start()
    return server


@pytest_asyncio.fixture
async def ann(server: Server) -> AsyncIterator[AsyncClient]:
    """A client of the one who looks at the page, which signs in for each request."""
    async with AsyncClient(base_url=f"http://127.0.0.1:{server.port}/api/v1") as client:
        account = {"email": "ann@example.com", "password": PASSWORD}
        assert (await client.post("/auth/register", json=account)).status_code == 201
        yield client


async def _token(client: AsyncClient, email: str) -> dict[str, str]:
    answer = await client.post("/auth/login", data={"username": email, "password": PASSWORD})
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def _write(client: AsyncClient, text: str) -> str:
    headers = await _token(client, "ann@example.com")
    answer = await client.post("/notes", json={"text": text}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"].removeprefix("/api/v1")


async def _sign_in(page: Page, server: Server) -> None:
    await page.open(f"http://127.0.0.1:{server.port}/live/notes.html")
    await page.until("document.readyState === 'complete' && document.querySelector('form')")
    await page.run(WATCH)
    await page.fill(username="ann@example.com", password=PASSWORD)
    await page.run("document.querySelector('button').click()")
    await page.until(f"{STATE} === 'live'")


async def test_changes_are_shown_as_they_are_made(
    tmp_path: Path, server: Server, ann: AsyncClient
) -> None:
    await _write(ann, "before")
    async with browser(tmp_path) as page:
        await _sign_in(page, server)
        await page.until(f"{SHOWN} === 'before'")
        address = await _write(ann, "<b>Buy</b> milk")
        await page.until(f"{SHOWN} === 'before,<b>Buy</b> milk'")
        headers = await _token(ann, "ann@example.com")
        await ann.patch(address, json={"text": "Buy bread"}, headers=headers)
        await page.until(f"{SHOWN} === 'before,Buy bread'")
        await ann.delete(address, headers=headers)
        await page.until(f"{SHOWN} === 'before'")
        assert page.complaints == []
        assert await page.run("states.join()") == "live"


async def test_what_was_missed_comes_with_the_connection(
    tmp_path: Path, server: Server, ann: AsyncClient
) -> None:
    async with browser(tmp_path) as page:
        await _sign_in(page, server)
        await _write(ann, "one")
        await page.until(f"{SHOWN} === 'one'")
        # What the page shows from now on are events: it does not read the list again.
        await page.run("performance.clearResourceTimings()")
        server.kill()
        await page.until(f"{STATE} === 'connecting'")
        server.start()
        await _write(ann, "two")
        await page.until(f"{SHOWN} === 'one,two' && {STATE} === 'live'")
        # Told to go, it comes back when it was told to.
        assert server.stop(signal.SIGTERM) == 0
        server.start()
        await _write(ann, "three")
        await page.until(f"{SHOWN} === 'one,two,three' && {STATE} === 'live'")
        read = "performance.getEntriesByType('resource').filter(({ name }) => /notes/.test(name))"
        assert await page.run(f"{read}.length") == 0


async def test_an_event_source_misses_nothing(
    tmp_path: Path, server: Server, ann: AsyncClient
) -> None:
    (script,) = (block.text for block in documents.blocks(LIVE) if block.title == "listen.js")
    async with browser(tmp_path) as page:
        await page.open(f"http://127.0.0.1:{server.port}/live/notes.html")
        await page.until("document.readyState === 'complete'")
        await page.run(script.replace("export function listen", "window.listen = function"))
        await page.run(LISTEN)
        await _write(ann, "one")
        await page.until("heard.join() === 'one'")
        server.kill()
        server.start()
        await _write(ann, "two")
        await page.until("heard.join() === 'one,two'")
        assert server.stop(signal.SIGTERM) == 0
        server.start()
        await _write(ann, "three")
        await page.until("heard.join() === 'one,two,three'")
        async with AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            assert "\nlive_connections 1.0" in (await client.get("/metrics")).text
        tickets = await page.run("tickets")
        await _disable(server, ann)
        await page.until("ended === 4502")
        await asyncio.sleep(2.5)
        assert await page.run("tickets") == tickets


async def test_a_login_is_renewed_and_its_end_is_final(
    tmp_path: Path, server: Server, ann: AsyncClient
) -> None:
    async with browser(tmp_path) as page:
        await _sign_in(page, server)
        await page.run("states.length = 0")
        await page.until("states.join() === 'connecting,live'")
        await _write(ann, "after")
        await page.until(f"{SHOWN} === 'after'")
        await _disable(server, ann)
        await page.until(f"{STATE} === 'ended: 4502'")
        await asyncio.sleep(1)
        assert await page.run(STATE) == "ended: 4502"


async def _disable(server: Server, ann: AsyncClient) -> None:
    link = re.search(r"/setup#token=(\S+)", server.output())
    assert link is not None, server.output()
    root = {"token": link[1], "email": "root@example.com", "password": PASSWORD}
    assert (await ann.post("/auth/setup", json=root)).is_success
    headers = await _token(ann, "root@example.com")
    found = await ann.get("/users?search=ann", headers=headers)
    address = f"/users/{found.json()['items'][0]['id']}"
    assert (await ann.patch(address, json={"disabled": True}, headers=headers)).is_success
