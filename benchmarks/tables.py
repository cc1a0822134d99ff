"""Tables in Markdown."""

from collections.abc import Iterable, Iterator, Sequence

Row = Sequence[str]

DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
"""What they are called."""


def table(header: Row, rows: Iterable[Row], *, left: int = 2) -> Iterator[str]:
    """Its lines; the columns behind the first `left` hold figures."""
    yield f"| {' | '.join(header)} |"
    yield "|" + "|".join("---" if n < left else "---:" for n in range(len(header))) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
