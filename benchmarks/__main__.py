"""`make bench`: Ferrule beside its peers and beside the floor, on both databases.

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

import ferrule
from benchmarks import postgres, processes
from benchmarks.about import about
from benchmarks.contenders import CONTENDERS, FERRULE, FLOOR, NAIVE, Contender
from benchmarks.data import database, fill
from benchmarks.report import page
from benchmarks.rounds import Plan, Result, run

KINDS = ("postgresql", "sqlite")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    _prepare()
    chosen = [each for each in CONTENDERS if each.key in options.contenders]
    kinds = KINDS if options.only is None else (options.only,)
    plan = Plan(options.rounds, options.seconds, options.starts, options.patience)
    notes = list(about(options.postgres if "postgresql" in kinds else None))
    results: dict[str, Mapping[str, Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        urls = {"postgresql": options.postgres, "sqlite": f"sqlite:///{folder}/bench.db"}
        for kind in kinds:
            postmaster = postgres.postmaster(options.postgres) if kind == "postgresql" else None
            with processes.pinned(postgres.ours(postmaster), processes.LOAD) as permitted:
                if not permitted:
                    notes.append("PostgreSQL could not be bound to the core of the load.")
                results[kind] = _run(kind, urls[kind], chosen, plan, postmaster)
    text = page(results, plan, notes)
    print(text)
    complete = (kinds, chosen) == (KINDS, list(CONTENDERS)) and plan.rounds > 2
    _save("latest" if complete else "partial", text, results, notes)


def _run(
    kind: str, url: str, chosen: Sequence[Contender], plan: Plan, postmaster: int | None
) -> Mapping[str, Result]:
    with database(kind, url) as own:
        return run(fill(own), chosen, dataclasses.replace(plan, postmaster=postmaster))


def _prepare() -> None:
    """See to it that all code is compiled, and that the load has a core of its own."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folders = (sysconfig.get_path("purelib"), Path(ferrule.__file__).parent, Path(__file__).parent)
    for folder in folders:
        compileall.compile_dir(folder, quiet=2)
    # So that servers end, and PostgreSQL gets its cores back, also if we are told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, processes.LOAD)


def _save(
    name: str, text: str, results: Mapping[str, Mapping[str, Result]], notes: Sequence[str]
) -> None:
    RESULTS.mkdir(exist_ok=True)
    raw = {
        kind: {key: dataclasses.asdict(result) for key, result in found.items()}
        for kind, found in results.items()
    }
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    document = json.dumps({"about": notes, "results": raw}, indent=1)
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
    parser.add_argument("--only", choices=KINDS)
    keys = [each.key for each in CONTENDERS]
    parser.add_argument("--contenders", type=_list, help=f"of {','.join(keys)}; default all")
    parser.add_argument(
        "--postgres",
        default=os.environ.get(
            "FERRULE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres"
        ),
        help="a server on which a database may be made; it is dropped at the end",
    )
    options = parser.parse_args()
    usual = {"rounds": 4, "seconds": 4.0, "starts": 3, "patience": 180.0, "contenders": keys}
    if options.quick:
        few = [each.key for each in (FLOOR, NAIVE, FERRULE)]
        usual = {"rounds": 2, "seconds": 1.0, "starts": 2, "patience": 8.0, "contenders": few}
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if unknown := set(options.contenders) - set(keys):
        parser.error(f"--contenders: {', '.join(sorted(unknown))} is none of {', '.join(keys)}")
    return options


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    main()
