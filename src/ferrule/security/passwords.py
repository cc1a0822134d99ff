"""Password hashing: Argon2id in threads of its own, so that it stalls nobody else."""

import asyncio
import secrets
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, TypeVar

from ferrule.errors import Unavailable
from ferrule.security.settings import SecuritySettings

if TYPE_CHECKING:
    from pwdlib import PasswordHash

T = TypeVar("T")


class PasswordHasher:
    """Hashes and verifies passwords; `Unavailable` where too many wait already.

    A hash takes tens of milliseconds and megabytes: services call it before the first statement of
    a `Write` session, never within its transaction.
    """

    def __init__(self, settings: SecuritySettings) -> None:
        self._memory, self._passes = settings.argon2_memory_kib, settings.argon2_passes
        # Nobody knows a password with this hash, and verifying one costs what it always does.
        salt, digest = (_unpadded(secrets.token_bytes(size)) for size in (16, 32))
        self._nothing = f"$argon2id$v=19$m={self._memory},t={self._passes},p=1${salt}${digest}"
        self._threads = ThreadPoolExecutor(settings.hash_threads, thread_name_prefix="passwords")
        self._room = BoundedSemaphore(settings.hash_threads + settings.hash_queue)

    @cached_property
    def _hash(self) -> "PasswordHash":
        """Imported by the thread that needs it first, so that no start waits for it."""
        from pwdlib import PasswordHash
        from pwdlib.hashers.argon2 import Argon2Hasher

        argon2 = Argon2Hasher(time_cost=self._passes, memory_cost=self._memory, parallelism=1)
        return PasswordHash([argon2])

    async def hash(self, password: str) -> str:
        """The hash to store, with a salt of its own."""
        return await self._run(lambda: self._hash.hash(_normal(password)))

    async def verify(self, password: str, hash: str) -> tuple[bool, str | None]:
        """Whether it is the password, and the hash to store instead if parameters have changed."""
        return await self._run(lambda: self._verify(_normal(password), hash))

    async def verify_nothing(self, password: str) -> None:
        """Take as long as `verify`: nobody learns from the time that an account does not exist."""
        await self._run(lambda: self._hash.verify(_normal(password), self._nothing))

    def close(self) -> None:
        """End the threads; what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, hash: str) -> tuple[bool, str | None]:
        from pwdlib.exceptions import UnknownHashError

        try:
            return self._hash.verify_and_update(password, hash)
        except UnknownHashError:
            self._hash.verify(password, self._nothing)
            return False, None

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._room.acquire(blocking=False):
            raise Unavailable("Too many people are signing in. Try again shortly.")
        try:
            future: Future[T] = self._threads.submit(work)
        except RuntimeError:
            self._room.release()
            raise Unavailable("The service is stopping.") from None
        # When the thread is done, which is later than now if the request is given up.
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)


def _normal(password: str) -> str:
    """One spelling for what looks the same: keyboards differ in how they compose (NIST 800-63B)."""
    return unicodedata.normalize("NFC", password)


def _unpadded(data: bytes) -> str:
    return b64encode(data).rstrip(b"=").decode()
