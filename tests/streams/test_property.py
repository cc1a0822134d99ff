"""Whoever reads gets every event after their place, in order, once; thousands of runs of chance.

A run that fails names its seed: `simulate("calm 17", PLANS["calm"])` is that run again.
"""

import pytest

from tests.streams.simulation import Plan, simulate

PLANS = {
    # A plan in which nothing is lost has no time to be healed: everything must come at once.
    "calm": Plan(),
    "reordered": Plan(doubled=0.3, late=0.3, removals=False),
    "replaced": Plan(doubled=0.3, late=0.3),
    "lossy": Plan(lost=0.4, doubled=0.1, late=0.3),
    "forgetful": Plan(unannounced=0.5),
    "failing": Plan(failing=0.3, late=0.1),
    "deaf": Plan(deaf=True, late=0.1),
    "dying": Plan(kills=True, unannounced=0.2, late=0.1),
    "all": Plan(
        lost=0.3,
        doubled=0.3,
        late=0.5,
        failing=0.2,
        unannounced=0.3,
        deaf=True,
        kills=True,
    ),
}


@pytest.mark.parametrize("runs", [250, pytest.param(5_000, marks=pytest.mark.drill)])
@pytest.mark.parametrize("plan", PLANS)
def test_every_reader_gets_every_event(plan: str, runs: int) -> None:
    for number in range(runs):
        simulate(f"{plan} {number}", PLANS[plan])
