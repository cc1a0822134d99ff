"""The report says what was measured, what could not be, and which target is met."""

from benchmarks.contenders import CONTENDERS, FERRULE, FLOOR, NAIVE
from benchmarks.operations import OPERATIONS
from benchmarks.report import page
from benchmarks.rounds import Plan, Result
from benchmarks.samples import Sample, Start
from benchmarks.targets import verdicts

PLAN = Plan(rounds=2, seconds=1, starts=1, patience=0)


def measured(rate: float, *, p99: float = 2.0, foreign: float = 0.0) -> list[Sample]:
    return [Sample(100, rate, 1.0, p99, 0, 1e6 / rate, foreign) for _ in range(PLAN.rounds)]


def result(contender: object, rate: float, **fields: float) -> Result:
    found = Result(contender)  # type: ignore[arg-type]
    found.samples = {operation.name: measured(rate, **fields) for operation in OPERATIONS}
    found.starts, found.rest, found.loaded = [Start(0.5, 0.0)], [60.0], [70.0]
    found.checks = {"another user's item is not found": contender is not FLOOR}
    return found


def test_targets_are_judged() -> None:
    found = {
        FLOOR.key: result(FLOOR, 1000),
        NAIVE.key: result(NAIVE, 100),
        FERRULE.key: result(FERRULE, 850, p99=4.0),
    }
    judged = {each.target: each for each in verdicts({"postgresql": found})}
    met = {target: each.met for target, each in judged.items()}
    assert met["Ferrule, generated, GET one: ≥ 8 x FastAPI, naive"] is True
    assert met["Ferrule, generated, POST: ≥ 8 x FastAPI, naive"] is True
    assert met["Ferrule, generated, POST: p99/p50 ≤ 1.5 x the floor's"] is False
    assert met["Ferrule, generated, cold start: ≤ 1 x FastAPI, naive"] is True
    assert judged["Ferrule, generated, GET one: ≥ 0.7 x floor"].figure == "0.85"


def test_disturbed_samples_are_marked() -> None:
    text = page({"sqlite": {NAIVE.key: result(NAIVE, 100, foreign=0.5)}}, PLAN, ["Today."])
    assert "| POST | FastAPI, naive | 100* | - | 1.00 |" in text
    assert "6 of 6 stayed so" in text


def test_a_start_beside_foreign_load_is_left_out_of_the_median() -> None:
    found = result(FERRULE, 1)
    found.starts = [Start(0.5, 0.0), Start(3.0, 0.9)]
    assert found.cold_start == 0.5


def test_contenders_have_keys_of_their_own() -> None:
    assert len({each.key for each in CONTENDERS}) == len(CONTENDERS)
