"""Nodes, a database, a bus and readers in one process, on a clock that jumps: a run is a seed.

The hubs and their rooms are the real ones. What they stand on is simulated with its failures: the
database answers late or not at all, the bus loses, doubles and reorders, processes die between a
commit and its announcement, connections stall and are cut.
"""

from tests.streams.simulation.plan import Plan
from tests.streams.simulation.world import simulate

__all__ = ["Plan", "simulate"]
