"""What a declaration may say, and what is refused before the application starts."""

from datetime import timedelta
from typing import Any

import pytest

from ferrule import ConfigurationError, Module, create_app
from ferrule.jobs import Run, job
from ferrule.jobs.functions import MAX_BACKOFF, JobFunctions


async def one(run: Run) -> None: ...


async def two(run: Run, data: int) -> None: ...


async def three(run: Run, data: int, more: int) -> None: ...


async def named(run: Run, *, data: int) -> None: ...


async def none() -> None: ...


@pytest.mark.parametrize("function", [three, named, none])
def test_it_takes_the_run_and_one_piece_of_data(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="put several values into one Schema"):
        job(function)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"name": "a/b"}, "letters, digits"),
        ({"name": "x" * 101}, "letters, digits"),
        ({"max_attempts": 0}, "at least 1"),
        ({"concurrency": 0}, "at least 1"),
        ({"timeout": 0}, "above 0"),
        ({"backoff": -1}, "at least 0"),
        ({"priority": 1001}, "priority"),
        ({"cron": "* * *"}, "five fields"),
        ({"cron": "0 * * * * *"}, "five fields"),
        ({"cron": "@daily"}, "five fields"),
        ({"cron": "0 0 30 2 *"}, "ever comes true"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "no time zone"),
        ({"cron": "* * * * *", "every": timedelta(hours=1)}, "not both"),
        ({"every": timedelta(seconds=0.5)}, "a second at least"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        job(**options)(one)


def test_a_schedule_has_no_data_to_give() -> None:
    with pytest.raises(ConfigurationError, match="who should give it"):
        job(every=timedelta(hours=1))(two)


def test_a_name_is_declared_once() -> None:
    modules = [Module(name=name, jobs=(job(one),)) for name in ("a", "b")]
    with pytest.raises(ConfigurationError, match="'one' is declared by 'a' and by 'b'"):
        create_app(modules=modules)


def test_a_plain_function_is_no_job() -> None:
    undecorated: Any = one
    with pytest.raises(ConfigurationError, match="Decorate it with @job"):
        JobFunctions([Module(name="a", jobs=(undecorated,))])


def test_without_jobs_there_is_no_queue() -> None:
    app = create_app(modules=[])
    assert [module.name for module in app.modules] == []
    app = create_app(modules=[Module(name="a", jobs=(job(one),))])
    assert [module.name for module in app.modules] == ["streams", "jobs", "a"]


def test_it_waits_longer_after_each_attempt_and_not_all_alike() -> None:
    function = job(backoff=2.0)(one)
    for attempts, longest in ((1, 2), (2, 4), (5, 32), (40, MAX_BACKOFF)):
        waits = {function.retry_in(attempts) for _ in range(50)}
        assert longest / 2 <= min(waits) < max(waits) <= longest


async def test_a_test_calls_the_function_itself() -> None:
    @job
    async def double(run: Run, data: int) -> int:
        return 2 * data

    nothing: Any = None
    assert await double(nothing, 4) == 8


def test_types_that_are_no_json_are_refused() -> None:
    class Thing: ...

    @job
    async def strange(run: Run, thing: Thing) -> None: ...

    strange.function.__annotations__["thing"] = Thing
    with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
        strange.dump(Thing())
