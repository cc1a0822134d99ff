"""A headless Chromium, spoken to in the DevTools protocol."""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]


class Page:
    """One tab. `complaints` holds what the console said at the level of an error."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.complaints: list[str] = []

    async def command(self, method: str, **parameters: Any) -> Any:
        number = next(self._ids)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.recv())
            if message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.complaints.append(entry["text"])
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def open(self, address: str) -> None:
        for domain in ("Log", "Page", "Runtime"):
            await self.command(f"{domain}.enable")
        await self.command("Page.navigate", url=address)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.command(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true; its value, True for an element."""
        script = f"(value => value instanceof Node ? true : value)({script})"
        async with asyncio.timeout(20):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.05)
        return value

    async def fill(self, **fields: str) -> None:
        """Write into inputs by their names, as somebody who types."""
        for name, value in fields.items():
            await self.run(f"document.querySelector('[name={name}]').focus()")
            await self.command("Input.insertText", text=value)


@asynccontextmanager
async def browser(folder: Path) -> AsyncGenerator[Page]:
    """Chromium with an empty profile and one tab."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("FERRULE_TEST_REQUIRE") == "all":
            pytest.fail("Chromium is not installed")
        pytest.skip("Chromium is not installed")
    profile = folder / "profile"
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with connect(await _tab(port), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.kill()
        process.wait()


async def _port(file: Path) -> int:
    async with asyncio.timeout(30):
        while not file.exists() or not file.read_text().partition("\n")[2]:
            await asyncio.sleep(0.05)
    return int(file.read_text().partition("\n")[0])


async def _tab(port: int) -> str:
    async with httpx.AsyncClient() as client:
        tabs = (await client.get(f"http://127.0.0.1:{port}/json")).json()
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
