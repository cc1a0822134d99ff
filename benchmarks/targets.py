"""What Ferrule promises of HTTP, memory and cold start, and whether a run kept it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.contenders import FERRULE, FLOOR, NAIVE, ORM, PREBUILT, Contender
from benchmarks.operations import GET, LIST, OPERATIONS, POST, Operation
from benchmarks.rounds import Result

Results = Mapping[str, Mapping[str, Result]]
"""By database and by key of contender."""

RATES: tuple[tuple[str, Contender, Operation, float, Contender], ...] = (
    ("postgresql", FERRULE, GET, 8, NAIVE),
    ("postgresql", FERRULE, GET, 0.7, FLOOR),
    ("postgresql", FERRULE, LIST, 6, NAIVE),
    ("postgresql", FERRULE, POST, 8, NAIVE),
    ("sqlite", FERRULE, GET, 9, NAIVE),
    ("sqlite", FERRULE, LIST, 5, NAIVE),
    ("sqlite", FERRULE, POST, 8, NAIVE),
    *(
        (kind, who, each, least, NAIVE)
        for who, least in ((ORM, 1.5), (PREBUILT, 6))
        for kind in ("postgresql", "sqlite")
        for each in OPERATIONS
    ),
)
"""On which database, who, at what, at least how many times the rate of whom.

A POST of `items` commits an event, too; without one it is measured beside live connections.
"""
TAIL = 1.5
"""At most this times the floor's own p99/p50."""
COLD_START = 1.0
"""At most this times that of naive FastAPI."""
MEMORY = 120.0
"""At most this many MiB at rest."""


@dataclass(frozen=True)
class Verdict:
    """A target, the figure that the run gave, and whether it is met."""

    kind: str
    target: str
    figure: str
    met: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    """All targets whose contenders took part."""
    for kind, who, operation, least, whom in RATES:
        found = results.get(kind, {})
        if who.key in found and whom.key in found:
            ratio = times(found, who, whom, operation)
            target = f"{who.name}, {operation.name}: ≥ {least:g} x {whom.name}"
            yield Verdict(kind, target, f"{ratio:.2f}", ratio >= least)
    for kind, found in results.items():
        yield from _of_ferrule(kind, found)


def _of_ferrule(kind: str, found: Mapping[str, Result]) -> Iterator[Verdict]:
    ours = found.get(FERRULE.key)
    if ours is None:
        return
    if FLOOR.key in found:
        for operation in OPERATIONS:
            tail = tail_ratio(found, FERRULE, operation)
            target = f"{FERRULE.name}, {operation.name}: p99/p50 ≤ {TAIL:g} x the floor's"
            yield Verdict(kind, target, f"{tail:.2f}", tail <= TAIL)
    if NAIVE.key in found:
        ratio = ours.cold_start / found[NAIVE.key].cold_start
        target = f"{FERRULE.name}, cold start: ≤ {COLD_START:g} x {NAIVE.name}"
        yield Verdict(kind, target, f"{ratio:.2f}", ratio <= COLD_START)
    target = f"{FERRULE.name}, memory at rest: ≤ {MEMORY:g} MiB"
    yield Verdict(kind, target, f"{ours.at_rest:.0f}", ours.at_rest <= MEMORY)


def times(
    found: Mapping[str, Result], who: Contender, whom: Contender, operation: Operation
) -> float:
    """How many times the rate of another."""
    return found[who.key].middle(operation, "rate") / found[whom.key].middle(operation, "rate")


def tail_ratio(found: Mapping[str, Result], who: Contender, operation: Operation) -> float:
    """p99/p50, as a multiple of the floor's own."""
    own, floors = (
        found[key].middle(operation, "p99") / found[key].middle(operation, "p50")
        for key in (who.key, FLOOR.key)
    )
    return own / floors
