"""An application of auth and notifications, whose mails go to a real SMTP server."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ferrule.app import Ferrule, create_app
from ferrule.mail import Mailer
from ferrule.mail.mailers import SmtpMailer
from ferrule.modules import auth, notifications
from ferrule.testing import ActorClient
from tests.mail.conftest import Post, post, serve

__all__ = ["post", "serve"]

NOTIFY = "/api/v1/notify"
INBOX = "/api/v1/notifications"
JOBS = "/api/v1/jobs"

Send = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[auth.module, notifications.module])


@pytest.fixture
async def mails(app: Ferrule, post: Post) -> Post:
    """Where the mails of the application arrive."""
    app.kit.provide(SmtpMailer(post.settings()), kind=Mailer)
    return post


@pytest.fixture
def send() -> Send:
    """Notifies: `await send(root, ann, title="…")`; the answer."""

    async def send(sender: ActorClient, to: ActorClient, **fields: Any) -> dict[str, Any]:
        body = {"user_id": to.user["id"], "title": "Hello", "body": "You there", **fields}
        answer = await sender.post(NOTIFY, json=body)
        assert answer.status_code == 202, answer.text
        told: dict[str, Any] = answer.json()
        return told

    return send
