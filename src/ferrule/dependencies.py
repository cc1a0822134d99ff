"""Dependencies that are context managers: entered for a request, left before the answer is sent."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

T = TypeVar("T")
MANAGER = "__ferrule_manager__"
"""Where a dependency has the context manager that it stands for."""
Manager = Callable[..., AbstractAsyncContextManager[Any]]


def managed(
    enter: Callable[[HTTPConnection], AbstractAsyncContextManager[T]],
) -> Callable[[HTTPConnection], AsyncGenerator[T]]:
    """A dependency for `Depends(…, scope="function")` that gives what the context manager gives.

    FastAPI knows generators only; a plan enters the context manager without one around it.
    """

    async def dependency(connection: HTTPConnection) -> AsyncGenerator[T]:
        async with enter(connection) as given:
            yield given

    def manager(connection: HTTPConnection) -> AbstractAsyncContextManager[T]:
        return enter(connection)

    dependency.__dict__[MANAGER] = manager
    return dependency


def manager_of(dependency: Callable[..., Any]) -> Manager:
    """The context manager that a generator is, or stands for."""
    return getattr(dependency, MANAGER, None) or asynccontextmanager(dependency)
