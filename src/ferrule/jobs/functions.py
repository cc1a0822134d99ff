"""`@job`: a function that runs later, whatever dies meanwhile."""

import inspect
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_type_hints, overload

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic_core import to_json

from ferrule.db.types import json_problem
from ferrule.errors import ConfigurationError, Invalid
from ferrule.jobs.schedules import Cron, Every, Schedule
from ferrule.schemas import JSON_DEPTH

if TYPE_CHECKING:
    from ferrule.jobs.run import Run
    from ferrule.module import Module

D = TypeVar("D")
R = TypeVar("R")

MAX_PAYLOAD = 262_144
"""Bytes of a job's data, or of its result, as JSON: larger things belong into a table or a file."""
MAX_BACKOFF = 3600.0
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MAX_PRIORITY = 1000
MAX_SPEC = 200


class JobFunction(Generic[D]):
    """A declared job; made by `@job`. Calling it runs the function itself, as a test may do."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        max_attempts: int,
        backoff: float,
        timeout: float,
        priority: int,
        concurrency: int | None,
        schedule: Schedule | None,
    ) -> None:
        self.name = name or function.__name__
        self.function = function
        self.max_attempts = max_attempts
        self.backoff = backoff
        self.timeout = timeout
        self.priority = priority
        self.concurrency = concurrency
        self.schedule = schedule
        self.blocking = not inspect.iscoroutinefunction(function)
        self.__doc__ = function.__doc__
        parameters = list(inspect.signature(function).parameters.values())
        self.takes_data = len(parameters) > 1
        problem = self._problem(parameters)
        if problem:
            raise ConfigurationError(f"The job {self.name!r} {problem}")

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __repr__(self) -> str:
        return f"JobFunction({self.name})"

    def dump(self, data: Any) -> Any:
        """The data as JSON; `Invalid` if it is not what the function takes, or cannot be stored."""
        if not self.takes_data:
            if data is not None:
                raise TypeError(f"The job {self.name!r} takes no data.")
            return None
        try:
            checked = self._data.validate_python(data)
        except ValidationError as error:
            raise Invalid(f"The job {self.name!r} does not take this data.") from error
        return _storable(self._data.dump_python(checked, mode="json"))

    def load(self, payload: Any) -> tuple[Any, ...]:
        """What the function is given beside the run."""
        return (self._data.validate_python(payload, strict=False),) if self.takes_data else ()

    def dump_result(self, result: Any) -> Any:
        """The result as JSON, which the job's reader is shown."""
        return None if result is None else _storable(self._result.dump_python(result, mode="json"))

    def retry_in(self, attempts: int) -> float:
        """Seconds until the next attempt: twice as long after each, spread so that all do not come
        back at the same time."""
        return min(self.backoff * 2 ** (attempts - 1), MAX_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311

    @cached_property
    def _data(self) -> TypeAdapter[Any]:
        return self._adapter(list(inspect.signature(self.function).parameters)[1])

    @cached_property
    def _result(self) -> TypeAdapter[Any]:
        return self._adapter("return")

    def _adapter(self, name: str) -> TypeAdapter[Any]:
        hints = get_type_hints(self.function, include_extras=True)
        try:
            return TypeAdapter(hints.get(name, Any))
        except PydanticSchemaGenerationError as error:
            raise ConfigurationError(
                f"The job {self.name!r}: {name!r} has a type that cannot be written as JSON; use "
                f"a Schema, or what Pydantic knows."
            ) from error

    def _problem(self, parameters: list[inspect.Parameter]) -> str | None:
        by_place = all(each.kind <= each.POSITIONAL_OR_KEYWORD for each in parameters)
        if not 1 <= len(parameters) <= 2 or not by_place:
            return "takes (run) or (run, data): put several values into one Schema."
        if not _NAME.fullmatch(self.name):
            return "needs a name of up to 100 letters, digits, dots, dashes and underscores."
        if self.max_attempts < 1 or (self.concurrency is not None and self.concurrency < 1):
            return "needs max_attempts and concurrency of at least 1."
        if self.timeout <= 0 or self.backoff < 0:
            return "needs a timeout above 0 and a backoff of at least 0 seconds."
        if abs(self.priority) > MAX_PRIORITY:
            return f"needs a priority between -{MAX_PRIORITY} and {MAX_PRIORITY}."
        if self.schedule is not None and len(self.schedule.spec) > MAX_SPEC:
            return f"has a schedule of more than {MAX_SPEC} characters."
        if self.schedule is not None and self.takes_data:
            return "has a schedule and takes data: who should give it?"
        return None


@overload
def job(function: Callable[["Run"], Any], /) -> JobFunction[None]: ...
@overload
def job(function: Callable[["Run", D], Any], /) -> JobFunction[D]: ...
@overload
def job(
    *,
    name: str | None = ...,
    max_attempts: int = ...,
    backoff: float = ...,
    timeout: float = ...,
    priority: int = ...,
    concurrency: int | None = ...,
    cron: str | None = ...,
    timezone: str = ...,
    every: timedelta | None = ...,
) -> "_Decorator": ...
def job(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    max_attempts: int = 5,
    backoff: float = 2.0,
    timeout: float = 300.0,
    priority: int = 0,
    concurrency: int | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    every: timedelta | None = None,
) -> Any:
    """Declare a job. A module lists it, `Module(jobs=(send_receipt,))`, and a service asks for it:

        @job
        async def send_receipt(run: Run, order_id: UUID) -> None: ...

        await session.enqueue(send_receipt, order.id, actor=actor)

    The data may have any type that Pydantic can write as JSON. A function without `async` runs in a
    thread. What it raises is tried again, save `JobFailed`.

    - `name`: by which stored jobs find it; the function's own where not given
    - `max_attempts`: how often it is begun; `backoff`: seconds before the second attempt, twice
      that before the third, up to an hour
    - `timeout`: seconds that an attempt may take
    - `priority`: a higher one runs sooner
    - `concurrency`: how many of them may run at the same time, on all workers together; counted
      for each `concurrency_key` apart where `session.enqueue` gives one
    - `cron`: a schedule as in crontab, in `timezone`; `every`: a schedule by interval
    """

    def declare(function: Callable[..., Any]) -> JobFunction[Any]:
        label = name or function.__name__
        return JobFunction(
            function,
            name=name,
            max_attempts=max_attempts,
            backoff=backoff,
            timeout=timeout,
            priority=priority,
            concurrency=concurrency,
            schedule=_schedule(label, cron, timezone, every),
        )

    return declare if function is None else declare(function)


class _Decorator:
    """The type of `@job(…)`."""

    @overload
    def __call__(self, function: Callable[["Run"], Any], /) -> JobFunction[None]: ...
    @overload
    def __call__(self, function: Callable[["Run", D], Any], /) -> JobFunction[D]: ...
    def __call__(self, function: Any, /) -> Any: ...


class JobFunctions(Mapping[str, JobFunction[Any]]):
    """The declared jobs of an application, by name."""

    def __init__(self, modules: "Iterable[Module]") -> None:
        self._functions: dict[str, JobFunction[Any]] = {}
        homes: dict[str, str] = {}
        for module in modules:
            for function in module.jobs:
                if not isinstance(cast(Any, function), JobFunction):
                    raise ConfigurationError(
                        f"Module {module.name!r}: {function!r} is no job. Decorate it with @job."
                    )
                if function.name in homes:
                    raise ConfigurationError(
                        f"The job {function.name!r} is declared by {homes[function.name]!r} and by "
                        f"{module.name!r}: give one of them another with @job(name=…)."
                    )
                homes[function.name] = module.name
                self._functions[function.name] = function

    def __getitem__(self, name: str) -> JobFunction[Any]:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def check(self, function: JobFunction[Any]) -> None:
        """Raise `ConfigurationError` for a job that no module declares: nobody would run it."""
        if self._functions.get(function.name) is not function:
            raise ConfigurationError(
                f"No module declares the job {function.name!r}: add it to Module(jobs=(…))."
            )


def _storable(value: Any) -> Any:
    problem = json_problem(value, depth=JSON_DEPTH)
    why = problem[1] if problem else None
    if why is None and len(to_json(value)) > MAX_PAYLOAD:
        why = f"it is larger than {MAX_PAYLOAD} bytes"
    if why is not None:
        raise Invalid(f"The data of a job cannot be stored: {why}.")
    return value


def _schedule(
    name: str, cron: str | None, timezone: str, every: timedelta | None
) -> Schedule | None:
    try:
        if cron is not None and every is not None:
            raise ValueError("give cron or every, not both")
        if cron is not None:
            return Cron(cron, timezone)
        return None if every is None else Every(every)
    except ValueError as error:
        raise ConfigurationError(f"The job {name!r}: {error}.") from error
