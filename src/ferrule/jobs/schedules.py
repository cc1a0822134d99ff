"""When a job of a schedule is due: cron expressions and intervals."""

from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

FIELDS = 5
SECOND = timedelta(seconds=1)


class Schedule(Protocol):
    """`spec` is stored: a schedule that was changed starts anew."""

    spec: str

    def after(self, moment: datetime) -> datetime:
        """The first tick that comes after a moment, in UTC."""
        ...


class Cron:
    """The five fields of crontab(5), in a time zone.

    As in Debian's cron: a fixed time that falls into the hour which clocks leave out comes right
    after it, and one into the hour which they repeat comes once. Where minute or hour begin with
    `*`, it follows the clock on the wall.
    """

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        self.spec = f"{expression} {timezone}"
        try:
            self._zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"there is no time zone {timezone!r}") from error
        self._expression = expression
        try:
            if len(expression.split()) != FIELDS:
                raise CronSimError
            self.after(datetime.now(UTC))
        except (CronSimError, StopIteration) as error:
            raise ValueError(
                f"{expression!r} is no cron expression that ever comes true; it has five fields, "
                f'as in "*/5 * * * *"'
            ) from error

    def after(self, moment: datetime) -> datetime:
        return next(CronSim(self._expression, moment.astimezone(self._zone))).astimezone(UTC)


class Every:
    """Whole multiples of an interval, counted from 1970, so that all workers count alike."""

    def __init__(self, interval: timedelta) -> None:
        if interval < SECOND:
            raise ValueError("every takes a second at least")
        self.spec = f"every {interval.total_seconds():g} s"
        self._interval = interval

    def after(self, moment: datetime) -> datetime:
        start = datetime(1970, 1, 1, tzinfo=UTC)
        return start + self._interval * ((moment - start) // self._interval + 1)
