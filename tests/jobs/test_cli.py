"""`ferrule job` and `ferrule worker`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ferrule import ConfigurationError, Ferrule, Module, create_app
from ferrule.cli.commands import app as command
from ferrule.cli.worker import work
from ferrule.errors import Conflict
from ferrule.jobs.worker import Worker
from tests.jobs.conftest import Ask, Look, Order, fail, give_up, greet

Command = Callable[..., Awaitable[Result]]


@pytest.fixture
def ferrule(app: Ferrule, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command on the test's database, in a thread: it has an event loop of its own."""
    modules = [module for module in app.modules if module.name != "jobs"]
    same = create_app(app.settings, modules)
    monkeypatch.setattr("ferrule.cli.application.load", lambda: same)

    async def run(*arguments: Any) -> Result:
        words = [str(each) for each in arguments]
        return await asyncio.to_thread(CliRunner().invoke, command, words)

    return run


async def test_failed_jobs_are_listed_and_tried_again(
    ferrule: Command, ask: Ask, look: Look, worker: Worker
) -> None:
    first, second, fine = await ask(give_up), await ask(fail), await ask(greet, Order(name="tea"))
    await worker.drain()
    listed = await ferrule("job", "list")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == [str(second), str(first)]
    assert "give_up  failed  1/5  There is no such order." in listed.output
    assert str(fine) in (await ferrule("job", "list", "--status", "completed")).output
    assert (await ferrule("job", "list", "--kind", "greet")).stdout == ""

    again = await ferrule("job", "retry", first)
    assert again.output.startswith(f"{first} is tried again as ")
    # Those that were tried again are not tried once more.
    rest = await ferrule("job", "retry", "--failed")
    assert rest.output.startswith(f"{second} is tried again as ")
    assert len(rest.output.splitlines()) == 1
    assert (await ferrule("job", "retry", "--failed")).stdout == ""
    assert await worker.drain() == 4


async def test_cancelling(ferrule: Command, ask: Ask, look: Look) -> None:
    id = await ask(greet, Order(name="tea"))
    assert (await ferrule("job", "cancel", id)).stdout == f"{id} is cancelled.\n"
    assert (await look(id)).status == "cancelled"
    refused = await ferrule("job", "cancel", id)
    assert isinstance(refused.exception, Conflict)


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry",),
        ("retry", "--failed", "01a1fedd-28a5-7288-882d-05a9e504e043"),
        ("retry", "nonsense"),
        ("cancel",),
        ("list", "--status", "lost"),
        ("list", "--limit", "0"),
    ],
)
async def test_wrong_use(ferrule: Command, arguments: tuple[str, ...]) -> None:
    assert (await ferrule("job", *arguments)).exit_code == 2


def test_sqlite_has_no_workers_of_their_own(
    application: Ferrule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferrule.cli.application.load", lambda: application)
    with pytest.raises(ConfigurationError, match="`ferrule serve` works on its jobs itself"):
        work(concurrency=None, metrics_port=None)


def test_a_worker_without_jobs(application: Ferrule, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = application.settings.model_copy(update={"database_url": "postgresql://localhost/x"})
    empty = create_app(settings, [Module(name="empty")])
    monkeypatch.setattr("ferrule.cli.application.load", lambda: empty)
    with pytest.raises(ConfigurationError, match="No module declares a job"):
        work(concurrency=None, metrics_port=None)
