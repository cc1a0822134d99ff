"""An application of the auth module alone, and its settings for a test."""

from collections.abc import Callable
from typing import Any

import pytest

from ferrule.app import Ferrule, create_app
from ferrule.kit import Kit
from ferrule.modules.auth import AuthSettings, module


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[module])


@pytest.fixture
def auth(app: Ferrule) -> Callable[..., None]:
    """Change settings of the module: `auth(registration="verified")`."""

    def change(**values: Any) -> None:
        set_auth(app.kit, **values)

    return change


def set_auth(kit: Kit, **values: Any) -> None:
    kit.provide(AuthSettings(**{**kit[AuthSettings].model_dump(), **values}))
