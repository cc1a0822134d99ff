"""What blocks runs in a thread for which the end of the process does not wait."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar, cast

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, name: str) -> T:
    """What `call` returns or raises. Whoever is cancelled meanwhile leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def tell(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if isinstance(error, StopIteration):
            # No future takes it.
            answer.set_exception(RuntimeError("raised StopIteration"))
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(cast(T, result))

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = context.run(call)
        except BaseException as error:
            failure = error
        # Nobody waits any more where the loop has been closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, result, failure)

    # A thread of a pool would be joined when the process ends, however long it still takes.
    threading.Thread(target=run, name=name, daemon=True).start()
    return await answer
