"""All that a run found of live connections."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.live.emit import EmitResults
from benchmarks.live.fanout import FanOuts
from benchmarks.live.idle import IdleResults
from benchmarks.live.latency import LatencyResults

FAN_OUT, LATENCY, IDLE, EMIT = PARTS = ("fan-out", "latency", "idle", "emit")


@dataclass
class LiveResults:
    """By key of contender, or of case; what an event costs a POST by database before."""

    fan_out: FanOuts = field(default_factory=dict)
    latency: LatencyResults = field(default_factory=dict)
    idle: IdleResults = field(default_factory=dict)
    emit: EmitResults = field(default_factory=dict)

    def raw(self) -> Mapping[str, Mapping[str, Any]]:
        """All of it in plain values, by part."""
        parts = {FAN_OUT: self.fan_out, LATENCY: self.latency, IDLE: self.idle}
        parts |= {f"{EMIT} on {kind}": found for kind, found in self.emit.items()}
        return {
            part: {key: dataclasses.asdict(result) for key, result in found.items()}
            for part, found in parts.items()
            if found
        }
