"""Passwords: Argon2id, in threads of their own, with a bounded queue."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from ferrule.errors import Unavailable
from ferrule.security.passwords import PasswordHasher
from ferrule.security.settings import SecuritySettings

CHEAP = SecuritySettings(argon2_memory_kib=8, argon2_passes=1)


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    hasher = PasswordHasher(CHEAP)
    yield hasher
    hasher.close()


async def test_a_hash_is_argon2id_with_a_salt_of_its_own(hasher: PasswordHasher) -> None:
    first, second = await hasher.hash("a long password"), await hasher.hash("a long password")
    assert first.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert first != second
    assert await hasher.verify("a long password", first) == (True, None)
    assert await hasher.verify("a long passwore", first) == (False, None)


async def test_n1_every_character_counts(hasher: PasswordHasher) -> None:
    long = "x" * 1000
    stored = await hasher.hash(long + "a")
    assert await hasher.verify(long + "a", stored) == (True, None)
    assert await hasher.verify(long + "b", stored) == (False, None)


async def test_composed_and_decomposed_letters_are_the_same_password(
    hasher: PasswordHasher,
) -> None:
    stored = await hasher.hash("Zo\u00eb likes caf\u00e9")
    assert (await hasher.verify("Zoe\u0308 likes cafe\u0301", stored))[0]


async def test_changed_parameters_give_a_better_hash(hasher: PasswordHasher) -> None:
    stronger = PasswordHasher(SecuritySettings(argon2_memory_kib=16, argon2_passes=2))
    try:
        known, better = await stronger.verify("a password", await hasher.hash("a password"))
        assert known
        assert better is not None
        assert better.startswith("$argon2id$v=19$m=16,t=2,p=1$")
        assert await stronger.verify("a password", better) == (True, None)
    finally:
        stronger.close()


async def test_a_damaged_hash_is_no_password(hasher: PasswordHasher) -> None:
    assert await hasher.verify("a password", "!") == (False, None)
    assert await hasher.verify("a password", "$argon2id$v=19$m=8,t=1,p=1$AAAA$!!") == (False, None)


async def test_n3_verifying_nothing_does_the_work_of_verifying() -> None:
    # Long hashes, so that the work shows above the noise.
    hasher = PasswordHasher(SecuritySettings(argon2_memory_kib=16_384, argon2_passes=4))
    try:
        stored = await hasher.hash("a password")
        clock = asyncio.get_running_loop().time
        times: dict[str, float] = {}
        for name, work in (
            ("known", lambda: hasher.verify("another", stored)),
            ("nothing", lambda: hasher.verify_nothing("another")),
        ):
            runs: list[float] = []
            for _ in range(5):
                started = clock()
                await work()
                runs.append(clock() - started)
            times[name] = min(runs)
        assert times["nothing"] > times["known"] / 2
        assert times["nothing"] < times["known"] * 2
    finally:
        hasher.close()


async def test_past_the_queue_the_answer_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasher = PasswordHasher(
        SecuritySettings(argon2_memory_kib=8, argon2_passes=1, hash_threads=1, hash_queue=2)
    )
    go = threading.Event()
    inner = hasher._hash.hash  # pyright: ignore[reportPrivateUsage]

    def slow(password: str) -> str:
        go.wait(10)
        return inner(password)

    monkeypatch.setattr(hasher._hash, "hash", slow)  # pyright: ignore[reportPrivateUsage]
    try:
        waiting = [asyncio.create_task(hasher.hash("a password")) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable):
            await hasher.hash("one too many")
        waiting[1].cancel()
        waiting[2].cancel()
        go.set()
        assert (await waiting[0]).startswith("$argon2id$")
        await asyncio.gather(*waiting, return_exceptions=True)
        # What was given up gave its place back.
        assert len(await asyncio.gather(*(hasher.hash("a password") for _ in range(3)))) == 3
    finally:
        go.set()
        hasher.close()


async def test_after_closing_the_answer_is_unavailable(hasher: PasswordHasher) -> None:
    hasher.close()
    with pytest.raises(Unavailable):
        await hasher.hash("a password")
