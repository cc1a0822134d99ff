"""What a run found, as one page of Markdown."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import median

from benchmarks.contenders import FLOOR, NAIVE
from benchmarks.jobs.report import JobResults, job_lines, job_verdicts
from benchmarks.live.report import live_lines, live_verdicts
from benchmarks.live.results import LiveResults
from benchmarks.operations import OPERATIONS, Operation
from benchmarks.rounds import Plan, Result
from benchmarks.samples import LIMIT
from benchmarks.tables import DATABASES, Row, table
from benchmarks.targets import Results, tail_ratio, times, verdicts


def page(
    results: Results,
    plan: Plan,
    about: Iterable[str],
    jobs: JobResults | None = None,
    live: LiveResults | None = None,
) -> str:
    """The whole report."""
    lines = ["# Benchmarks", "", *about]
    if results:
        lines += ["", *_method(results, plan)]
    for kind, found in results.items():
        lines += ["", f"## {DATABASES[kind]}", "", *_rates(found), "", *_footprints(found)]
    if results:
        lines += ["", "## What each contender checks", "", *_checks(results)]
    if jobs:
        lines += job_lines(jobs, plan.jobs)
    if live and live.raw():
        lines += live_lines(live)
    judged = [
        (DATABASES[each.kind], each.target, each.figure, "met" if each.met else "not met")
        for each in (
            *verdicts(results),
            *job_verdicts(jobs or {}),
            *live_verdicts(live or LiveResults()),
        )
    ]
    if judged:
        lines += ["", "## Targets", "", *table(("database", "target", "figure", ""), judged)]
    return "\n".join([*lines, ""])


def _method(results: Results, plan: Plan) -> Iterator[str]:
    everything = [each for found in results.values() for each in found.values()]
    samples = [each for one in everything for many in one.samples.values() for each in many]
    noise = [
        one.noise(operation) for one in everything for operation in OPERATIONS if plan.rounds > 1
    ]
    yield (
        f"Each figure is the median of {plan.rounds} rounds of {plan.seconds:g} s, in which the "
        f"contenders took turns: one process on a core of its own, the load and PostgreSQL on "
        f"another, 32 keep-alive connections with the tokens of 200 logins, 10,000 items. Only "
        f"ratios within one run mean something: a rate depends on the machine."
    )
    yield ""
    if noise:
        yield (
            f"Noise, the distance between a contender's rounds as a share of their median: "
            f"{median(noise):.0%} in the middle, {max(noise):.0%} at worst."
        )
    disturbed = sum(sample.disturbed for sample in samples)
    yield (
        f"Foreign load, what others had of a core: {median(s.foreign for s in samples):.1%} in the "
        f"middle, {max(s.foreign for s in samples):.1%} at worst. Samples with more than "
        f"{LIMIT:.0%} were repeated; {disturbed} of {len(samples)} stayed so, and count only where "
        f"there are no others (marked *)."
    )


def _rates(found: Mapping[str, Result]) -> Iterator[str]:
    rows = [
        _rate(found, result, operation) for operation in OPERATIONS for result in found.values()
    ]
    header = (
        "", "contender", "req/s", "of the floor", "x FastAPI", "CPU µs", "p50 ms", "p99 ms",
        "p99/p50 x floor's", "noise", "failed",
    )  # fmt: skip
    return table(header, rows)


def _rate(found: Mapping[str, Result], result: Result, operation: Operation) -> Row:
    who = result.contender
    samples = result.samples[operation.name]
    mark = "*" if result.counted(operation)[0].disturbed else ""
    lost = f" and {result.lost} lost" if result.lost and operation is OPERATIONS[-1] else ""
    return (
        operation.name,
        who.name,
        f"{result.middle(operation, 'rate'):.0f}{mark}",
        f"{times(found, who, FLOOR, operation):.3f}" if FLOOR.key in found else "-",
        f"{times(found, who, NAIVE, operation):.2f}" if NAIVE.key in found else "-",
        f"{result.middle(operation, 'cpu'):.0f}",
        f"{result.middle(operation, 'p50'):.1f}",
        f"{result.middle(operation, 'p99'):.1f}",
        f"{tail_ratio(found, who, operation):.2f}" if FLOOR.key in found else "-",
        f"{result.noise(operation):.0%}",
        f"{sum(sample.failed for sample in samples)}{lost}",
    )


def _footprints(found: Mapping[str, Result]) -> Iterator[str]:
    naive = found.get(NAIVE.key)
    rows = [
        (
            one.contender.name,
            f"{one.cold_start * 1000:.0f}",
            f"{one.cold_start / naive.cold_start:.2f}" if naive else "-",
            f"{len(one.starts)}",
            f"{one.at_rest:.0f}",
            f"{median(one.loaded):.0f}",
        )
        for one in found.values()
    ]
    header = ("contender", "cold start ms", "x FastAPI", "starts", "at rest MiB", "after load MiB")
    return table(header, rows)


def _checks(results: Results) -> Iterator[str]:
    """One table: a check that is done on one database only is an error of the contender's."""
    found = [
        [results[kind][key] for kind in results if key in results[kind]]
        for key in dict.fromkeys(key for each in results.values() for key in each)
    ]
    names = list(found[0][0].checks)
    rows: list[Row] = [
        ("who is calling", *(each[0].contender.user for each in found)),
        ("answers go through", *(each[0].contender.output for each in found)),
    ]
    for name in names:
        done = [all(one.checks[name] for one in each) for each in found]
        rows.append((name, *("yes" if each else "no" for each in done)))
    return table(("", *(each[0].contender.name for each in found)), rows, left=99)
