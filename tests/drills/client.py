"""A client as lean as can be, because it shares the machine with the server that it drives."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Self

from tests.server import HOST

DEADLINE = 30
"""Seconds to wait for an answer."""
LOST = (OSError, asyncio.IncompleteReadError)
"""What is raised when the server goes away before it has answered."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection that is kept alive, and opened anew after it was lost."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self._port = port
        self._head = f"host: {HOST}\r\n"
        if token is not None:
            self._head += f"authorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    @property
    def idle(self) -> float:
        """Seconds for which a connection is open without a request."""
        return time.monotonic() - self._used if self._streams else 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def request(
        self, method: str, path: str, data: Any = None, *, form: str | None = None
    ) -> Answer:
        """Send JSON or a form; raises one of `LOST` if no whole answer came."""
        body, kind = b"", ""
        if form is not None:
            body, kind = form.encode(), "content-type: application/x-www-form-urlencoded\r\n"
        elif data is not None:
            body, kind = json.dumps(data).encode(), "content-type: application/json\r\n"
        head = f"{method} /api/v1{path} HTTP/1.1\r\n{self._head}{kind}content-length: {len(body)}"
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._exchange(head.encode() + b"\r\n\r\n" + body)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, message: bytes) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        writer.write(message)
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines if line)
        headers = {name.lower(): value for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._used = time.monotonic()
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(start.split(" ")[1]), headers, body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def sign_in(port: int, name: str = "ann") -> str:
    """An access token of a user, who is made if there is none."""
    email, password = f"{name}@example.com", "correct horse battery staple"
    async with Client(port) as client:
        data = {"email": email, "password": password, "name": name}
        registered = await client.request("POST", "/auth/register", data)
        assert registered.status in (201, 409), registered
        form = f"username={name}%40example.com&password={password.replace(' ', '+')}"
        answer = await client.request("POST", "/auth/login", form=form)
    assert answer.status == 200, answer
    return str(answer.json()["access_token"])
