"""What an event in the same commit adds to a POST, and what is left of the lead over FastAPI."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.contenders import FERRULE as GENERATED
from benchmarks.contenders import NAIVE, Contender
from benchmarks.data import Client, Data
from benchmarks.operations import GET, POST, requests, verify
from benchmarks.rounds import Plan, calm, wait
from benchmarks.samples import Sample, take
from benchmarks.server import served

TOLD = replace(GENERATED, name=f"{GENERATED.name}, with an event")
SILENT = replace(
    GENERATED,
    key="silent",
    name=f"{GENERATED.name}, without events",
    command=GENERATED.command.replace("ferrule.asgi", "benchmarks.live.contenders.silent"),
)
EMIT_CONTENDERS = (NAIVE, SILENT, TOLD)


@dataclass
class EmitResult:
    contender: Contender
    samples: list[Sample] = field(default_factory=list)

    def middle(self, name: str = "rate") -> float:
        """The median of the rounds that count."""
        return median(getattr(sample, name) for sample in calm(self.samples))


EmitResults = Mapping[str, Mapping[str, EmitResult]]
"""By database and by key of contender."""


def run(data: Data, plan: Plan) -> dict[str, EmitResult]:
    """Measure POST on one database; the contenders take turns."""
    results = {each.key: EmitResult(each) for each in EMIT_CONTENDERS}
    for _ in range(plan.rounds):
        for result in random.sample(list(results.values()), len(results)):
            result.samples.append(_measure(result.contender, data, plan))
    return results


def _measure(contender: Contender, data: Data, plan: Plan) -> Sample:
    with served(contender, data.url, _first(data.clients[0])) as server:
        verify(POST, server, data.clients[0])
        while True:
            sample = take(server, POST, data, seconds=plan.seconds, postmaster=plan.postmaster)
            if not sample.disturbed or plan.patience <= 0:
                break
            wait(plan, 1.25 * plan.seconds)
    data.tidy()
    return sample


def _first(client: Client) -> bytes:
    """A request that all of them answer."""
    return requests(GET, GENERATED, [client])[0]
