"""`make bench`: Ferrule beside its peers and beside the floor, on both databases; its jobs; and its
live connections.

Server and load run on separate cores, the contenders take turns, and each figure is the median of
the rounds. Ratios within one run are what counts; rates depend on the machine.
"""

import argparse
import compileall
import dataclasses
import json
import os
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ferrule
from benchmarks import postgres, processes
from benchmarks.about import about
from benchmarks.contenders import CONTENDERS, FERRULE, FLOOR, NAIVE, Contender
from benchmarks.data import database, fill
from benchmarks.jobs import FERRULE_POSTGRESQL, FERRULE_SQLITE, JOB_CONTENDERS, PROCRASTINATE
from benchmarks.jobs import redis as redis_server
from benchmarks.jobs.rounds import JobResult
from benchmarks.jobs.rounds import run as run_jobs
from benchmarks.live import FERRULE as SIGNAL
from benchmarks.live import LIVE_CONTENDERS, RAW, STARLETTE, emit
from benchmarks.live.measure import measure
from benchmarks.live.results import FAN_OUT, PARTS, LiveResults
from benchmarks.report import page
from benchmarks.rounds import Plan, Result, run

KINDS = ("postgresql", "sqlite")
JOBS, LIVE = "jobs", "live"
KEYS = [
    each.key for each in (*CONTENDERS, *JOB_CONTENDERS, *LIVE_CONTENDERS, emit.SILENT, emit.TOLD)
]
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    _prepare()
    chosen = [each for each in CONTENDERS if each.key in options.contenders]
    kinds = (*KINDS, JOBS, LIVE) if options.only is None else (options.only,)
    plan = Plan(
        options.rounds,
        options.seconds,
        options.starts,
        options.patience,
        jobs=options.jobs,
        pickups=options.pickups,
    )
    notes = list(about(None if kinds == ("sqlite",) else options.postgres))
    results: dict[str, Mapping[str, Result]] = {}
    jobs: Mapping[str, JobResult] = {}
    live = LiveResults()
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            own = f"sqlite:///{folder}/{kind}.db"
            postmaster = postgres.postmaster(options.postgres) if kind != "sqlite" else None
            with processes.pinned(postgres.ours(postmaster), processes.LOAD) as permitted:
                if not permitted:
                    notes.append("PostgreSQL could not be bound to the core of the load.")
                run_plan = dataclasses.replace(plan, postmaster=postmaster)
                if kind == JOBS:
                    jobs = _run_jobs(options, own, run_plan, notes)
                elif kind == LIVE or kind in PARTS:
                    live = _run_live(options, own, run_plan, notes)
                else:
                    url = own if kind == "sqlite" else options.postgres
                    results[kind] = _run(kind, url, chosen, run_plan)
    text = page(results, plan, notes, jobs, live)
    print(text)
    all_of_them = set(options.contenders) == set(KEYS)
    complete = options.only is None and all_of_them and plan.rounds > 2
    found = {kind: _plain(each) for kind, each in {**results, JOBS: jobs}.items()}
    _save("latest" if complete else "partial", text, {**found, LIVE: live.raw()}, notes)


def _run(kind: str, url: str, chosen: Sequence[Contender], plan: Plan) -> Mapping[str, Result]:
    with database(kind, url) as own:
        return run(fill(own), chosen, plan)


def _run_jobs(
    options: argparse.Namespace, sqlite: str, plan: Plan, notes: list[str]
) -> Mapping[str, JobResult]:
    chosen = [each for each in JOB_CONTENDERS if each.key in options.contenders]
    redis, plan = _with_redis(options, plan, notes)
    if redis is None:
        chosen = [each for each in chosen if each.store != "redis"]
    if options.quick:
        plan = dataclasses.replace(plan, rounds=1, patience=0)
    with (
        processes.pinned(plan.stores, processes.LOAD),
        database("postgresql", options.postgres) as postgresql,
    ):
        urls = {"postgresql": postgresql, "sqlite": sqlite, "redis": options.redis}
        return run_jobs(chosen, urls, plan)


def _run_live(
    options: argparse.Namespace, sqlite: str, plan: Plan, notes: list[str]
) -> LiveResults:
    redis, plan = _with_redis(options, plan, notes)
    parts = PARTS if options.only in (None, LIVE) else (options.only,)
    if options.quick:
        parts = (FAN_OUT,) if parts == PARTS else parts
        plan = dataclasses.replace(plan, rounds=1, patience=0)
    with (
        processes.pinned(plan.stores, processes.LOAD),
        database("postgresql", options.postgres) as postgresql,
    ):
        urls = {"postgresql": postgresql, "sqlite": sqlite}
        return measure(parts, options.contenders, urls, redis, plan)


def _with_redis(
    options: argparse.Namespace, plan: Plan, notes: list[str]
) -> tuple[str | None, Plan]:
    """The address of Redis, None if there is none, and a plan that knows its process for ours."""
    redis = redis_server.server(options.redis)
    told = redis_server.described(options.redis, redis)
    if told not in notes:
        notes.append(told)
    plan = dataclasses.replace(plan, stores={redis} if redis else set())
    return None if redis is None else options.redis, plan


def _prepare() -> None:
    """See to it that all code is compiled, and that the load has a core of its own."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folders = (sysconfig.get_path("purelib"), Path(ferrule.__file__).parent, Path(__file__).parent)
    for folder in folders:
        compileall.compile_dir(folder, quiet=2)
    # So that servers end, and PostgreSQL gets its cores back, also if we are told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, processes.LOAD)


def _plain(found: Mapping[str, Result | JobResult]) -> Mapping[str, Any]:
    return {key: dataclasses.asdict(result) for key, result in found.items()}


def _save(
    name: str, text: str, results: Mapping[str, Mapping[str, Any]], notes: Sequence[str]
) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    document = json.dumps({"about": notes, "results": results}, indent=1)
    (RESULTS / f"{name}.json").write_text(document + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: no peers, two rounds")
    parser.add_argument("--rounds", type=int, help="default 4")
    parser.add_argument("--seconds", type=float, help="of each measurement; default 4")
    parser.add_argument("--starts", type=int, help="beside those of the rounds; default 3")
    parser.add_argument(
        "--patience", type=float, help="seconds a database that foreign load may cost; default 180"
    )
    parser.add_argument("--jobs", type=int, help="of each measurement of jobs; default 1000")
    parser.add_argument("--pickups", type=int, help="jobs that find an idle worker; default 25")
    parser.add_argument("--only", choices=(*KINDS, JOBS, LIVE, *PARTS))
    parser.add_argument("--contenders", type=_list, help=f"of {','.join(KEYS)}; default all")
    parser.add_argument(
        "--postgres",
        default=os.environ.get(
            "FERRULE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres"
        ),
        help="a server on which a database may be made; it is dropped at the end",
    )
    parser.add_argument(
        "--redis",
        default=os.environ.get("FERRULE_TEST_REDIS_URL", "redis://127.0.0.1:6379"),
        help="for a queue that is kept in Redis; without a server there it is left out",
    )
    options = parser.parse_args()
    usual = {"rounds": 4, "seconds": 4.0, "starts": 3, "patience": 180.0, "jobs": 1000}
    usual |= {"pickups": 25, "contenders": KEYS}
    if options.quick:
        some = (FLOOR, NAIVE, FERRULE, FERRULE_POSTGRESQL, FERRULE_SQLITE, PROCRASTINATE)
        few = [each.key for each in (*some, RAW, STARLETTE, SIGNAL)]
        usual = {"rounds": 2, "seconds": 1.0, "starts": 2, "patience": 2.0, "jobs": 150}
        usual |= {"pickups": 5, "contenders": few}
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if unknown := set(options.contenders) - set(KEYS):
        parser.error(f"--contenders: {', '.join(sorted(unknown))} is none of {', '.join(KEYS)}")
    return options


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    main()
