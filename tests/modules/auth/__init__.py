"""What the tests of accounts share."""

from typing import Any

from httpx import AsyncClient, Response

PASSWORD = "correct horse battery staple"
ANN = {"email": "ann@example.com", "password": PASSWORD, "name": "Ann"}


async def register(client: AsyncClient, **changes: Any) -> Response:
    return await client.post("/api/v1/auth/register", json={**ANN, **changes})


async def login(
    client: AsyncClient, username: str = ANN["email"], password: str = PASSWORD
) -> Response:
    form = {"username": username, "password": password}
    return await client.post("/api/v1/auth/login", data=form)


async def refresh(client: AsyncClient, token: str) -> Response:
    return await client.post("/api/v1/auth/refresh", json={"refresh_token": token})


async def me(client: AsyncClient, token: str) -> Response:
    return await client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})


def refused(response: Response, status: int, code: str) -> None:
    """The answer is this problem, and nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["code"] == code
    assert PASSWORD not in response.text


def field_error(response: Response) -> tuple[Any, str]:
    """Where the one refused field stands, and its code."""
    refused(response, 422, "validation_error")
    (error,) = response.json()["errors"]
    return error["loc"][-1], error["code"]
