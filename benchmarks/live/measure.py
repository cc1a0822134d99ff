"""A run of the parts that are about live connections."""

import dataclasses
import resource
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from redis import Redis

from benchmarks.data import NAME, fill
from benchmarks.live import IDLE_CONTENDERS, LIVE_CONTENDERS, READERS, emit, fanout, idle, latency
from benchmarks.live.results import EMIT, FAN_OUT, IDLE, LATENCY, LiveResults
from benchmarks.live.servers import Stores
from benchmarks.rounds import Plan

SPARE = 500
"""Files that are open beside the connections."""


def measure(
    parts: Collection[str],
    keys: Collection[str],
    urls: Mapping[str, str],
    redis: str | None,
    plan: Plan,
) -> LiveResults:
    """These parts, with the contenders of these keys; without Redis, what needs it is left out."""
    buses = ("", "redis") if redis else ("",)
    chosen = [each for each in LIVE_CONTENDERS if each.key in keys and each.bus in buses]
    sitting = [each for each in IDLE_CONTENDERS if each.key in keys]
    cases = [case for case in latency.CASES if case.contender in chosen]
    telling = emit.TOLD.key in keys
    stores = {each.store for each in chosen if FAN_OUT in parts}
    stores |= {case.contender.store for case in cases if LATENCY in parts}
    stores |= {each.store for each in sitting if IDLE in parts}
    stores |= set(urls) if telling and EMIT in parts else set()
    data = {kind: fill(urls[kind]) for kind in sorted(stores - {""})}
    found = LiveResults()
    with _cleaned(redis):
        everything = Stores(data, redis or "")
        if FAN_OUT in parts and chosen:
            _check(len(chosen) * (READERS + 1))
            found.fan_out = fanout.run(chosen, everything, plan)
        if LATENCY in parts and cases:
            fewer = dataclasses.replace(plan, rounds=max(1, plan.rounds // 2))
            found.latency = latency.run(cases, everything, fewer)
        if IDLE in parts and sitting:
            number = min(idle.SOCKETS, _files() - SPARE)
            found.idle = idle.run(sitting, everything, plan, number)
        if EMIT in parts and telling:
            found.emit = {kind: emit.run(each, plan) for kind, each in data.items()}
    return found


def _check(connections: int) -> None:
    if _files() < connections + SPARE:
        raise SystemExit(
            f"{connections} connections need as many files: raise the limit (ulimit -Hn), or name "
            f"fewer --contenders."
        )


def _files() -> int:
    """How many may be open, here and in the servers that are started."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextmanager
def _cleaned(url: str | None) -> Iterator[None]:
    """Nothing of ours is left in Redis."""
    try:
        yield
    finally:
        if url is not None:
            with Redis.from_url(url) as redis:
                for key in redis.scan_iter(f"{NAME}*"):
                    redis.delete(key)
