"""The part of the report that is about live connections."""

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.contenders import NAIVE
from benchmarks.live import BARE, FERRULE, FRAME, RAW, READERS, SOCKET_IO, STARLETTE
from benchmarks.live.emit import SILENT, TOLD, EmitResult
from benchmarks.live.fanout import FanOutResult
from benchmarks.live.idle import IdleResult
from benchmarks.live.latency import Spread
from benchmarks.live.results import LiveResults
from benchmarks.rounds import Measured
from benchmarks.samples import LIMIT
from benchmarks.tables import DATABASES, Row, table
from benchmarks.targets import Verdict

LEAST = ((0.85, RAW), (2.3, STARLETTE), (12, SOCKET_IO))
"""How many times the fan-out of whom."""
MEMORY, LATE = 40.0, 10.0
"""At most so many KiB for an idle socket, and milliseconds at the p99 of a GET beside them."""
WRITING = ((10, SILENT), (8, TOLD))
"""How many times the POST of naive FastAPI, without an event in the same commit and with one."""


def live_lines(found: LiveResults) -> Iterator[str]:
    """All but the targets."""
    yield from ("", "## Live connections")
    if found.fan_out:
        yield from ("", "### Fan-out", "", *_of_fan_out(found), "", *_fan_out(found))
    if found.latency:
        yield from ("", "### Delivery of durable messages", "", *_of_latency(found), "")
        yield from _latency(found)
    if found.idle:
        yield from ("", "### Idle connections", "", *_of_idle(found), "", *_idle(found))
    if found.emit:
        yield from ("", "### An event in the same commit", "", *_of_emit(found), "", *_emit(found))


def live_verdicts(found: LiveResults) -> Iterator[Verdict]:
    """The targets whose contenders took part."""
    ours = found.fan_out.get(FERRULE.key)
    for least, whom in LEAST:
        if ours and whom.key in found.fan_out:
            ratio = ours.times(found.fan_out[whom.key])
            target = f"{FERRULE.name}, fan-out: ≥ {least:g} x {whom.name}"
            figure = f"{ratio:.2f}"
            if ceiling := found.fan_out.get(BARE.key):
                figure += f" (at most {ceiling.times(found.fan_out[whom.key]):.2f})"
            yield Verdict(FERRULE.store, target, figure, ratio >= least)
    for one in found.idle.values():
        yield from _of_sockets(one)
    for kind, emitted in found.emit.items():
        for least, who in WRITING:
            ratio = _rate(emitted[who.key]) / _rate(emitted[NAIVE.key])
            target = f"{who.name}, POST: ≥ {least:g} x {NAIVE.name}"
            yield Verdict(kind, target, f"{ratio:.2f}", ratio >= least)


def _of_sockets(one: IdleResult) -> Iterator[Verdict]:
    if one.beside is None:
        return
    who, kind = "Ferrule", one.contender.store
    kib = max(one.opened, one.later)
    target = f"{who}, memory of an idle socket: ≤ {MEMORY:g} KiB"
    yield Verdict(kind, target, f"{kib:.1f}", kib <= MEMORY)
    target = f"{who}, p99 of a GET beside {one.sockets} of them: < {LATE:g} ms"
    yield Verdict(kind, target, f"{one.beside:.1f}", one.beside < LATE)


def _of_fan_out(found: LiveResults) -> Iterator[str]:
    samples = [each for one in found.fan_out.values() for each in one.samples]
    turns = max(len(one.samples) for one in found.fan_out.values())
    yield (
        f"A client sends a message over its WebSocket, and {READERS} others get it as a frame of "
        f"{FRAME} bytes, uncompressed. The next one is sent when the first of them has it, so that "
        f"the server always has work, and never two events to write at once. All servers are up "
        f"with their readers, and take turns: medians of {turns} turns, of which ratios are taken "
        f"one by one; where all were disturbed, those of the server's CPU for a delivery. Ferrule "
        f"alone asks who reads, and whether they may; its limits of messages and connections are "
        f"on, and raised. A durable event is committed before it is sent, with eight under way. "
        f"Heartbeats are rare. `server` and `clients` are what these had of a core each: where the "
        f"server has all of its own, the clients are not what is measured, who read every few "
        f"milliseconds and tell frames by their boundaries. Redis and "
        f"PostgreSQL are on the clients' core. One write(2) for each reader is the least that a "
        f"server can do: what that reaches of another is the most that anybody could."
    )
    yield from ("", _disturbance(samples))


def _fan_out(found: LiveResults) -> Iterator[str]:
    everybody = found.fan_out
    rows = [
        (
            one.contender.name,
            f"{one.middle():.0f}{_mark(one.samples)}",
            *(_times(one, everybody.get(whom.key)) for _, whom in LEAST),
            f"{one.middle('cpu'):.2f}",
            _share(one, everybody.get(RAW.key)),
            f"{one.middle('server'):.0%}",
            f"{one.middle('clients'):.0%}",
            f"{one.frame}",
            f"{one.noise:.0%}",
            f"{sum(sample.lost for sample in one.samples)}",
        )
        for one in everybody.values()
    ]
    columns = (
        "", "delivered/s", "x raw", "x Starlette", "x python-socketio", "CPU µs", "CPU, x raw's",
        "server", "clients", "frame", "noise", "lost",
    )  # fmt: skip
    return table(columns, rows, left=1)


def _times(one: FanOutResult, other: FanOutResult | None) -> str:
    return f"{one.times(other):.2f}" if other else "-"


def _share(one: FanOutResult, raw: FanOutResult | None) -> str:
    return f"{one.middle('cpu') / raw.middle('cpu'):.2f}" if raw else "-"


def _of_latency(found: LiveResults) -> Iterator[str]:
    samples = [each for one in found.latency.values() for each in one.samples]
    yield (
        f"One client publishes 50 messages a second, which are committed; 100 others get them. "
        f"Milliseconds over all readers and messages, from the acknowledgement that the publisher "
        f"gets (negative: readers had it before), and from the sending; medians of "
        f"{max(len(one.samples) for one in found.latency.values())} rounds of "
        f"{max(sample.messages for sample in samples)} messages. With two processes the readers "
        f"are connected to the one, the publisher to the other; both are on one core."
    )
    yield from ("", _disturbance(samples))


def _latency(found: LiveResults) -> Iterator[str]:
    rows = [
        (
            f"{one.case.name}{_mark(one.samples)}",
            *_spread(one.middle("acknowledged")),
            *_spread(one.middle("sent")),
            f"{sum(sample.lost for sample in one.samples)}",
        )
        for one in found.latency.values()
    ]
    columns = ("", "acknowledged, p50", "p99", "sent, p50", "p99", "lost")
    return table(columns, rows, left=1)


def _spread(spread: Spread) -> tuple[str, str]:
    return f"{spread.p50:.1f}", f"{spread.p99:.1f}"


def _of_idle(found: LiveResults) -> Iterator[str]:
    number = max(one.sockets for one in found.idle.values())
    yield (
        f"{number} sockets, which get heartbeats and nothing else; Ferrule's are authenticated and "
        f"subscribed to their user's notifications, on PostgreSQL. KiB of the server's memory for "
        f"each, once all are open, and after half a minute; how many were let in a second; "
        f"milliseconds at the p99 of 100 GETs of one item a second, alone and beside the sockets."
    )
    yield from ("", _disturbance(list(found.idle.values())))


def _idle(found: LiveResults) -> Iterator[str]:
    rows = [
        (
            f"{one.contender.name.partition(',')[0]}{_mark([one])}",
            f"{one.opened:.1f}",
            f"{one.later:.1f}",
            f"{one.rate:.0f}",
            *("-" if each is None else f"{each:.1f}" for each in (one.alone, one.beside)),
            f"{one.lost}",
        )
        for one in found.idle.values()
    ]
    columns = ("", "KiB", "later", "let in/s", "p99 alone", "p99 beside", "lost")
    return table(columns, rows, left=1)


def _of_emit(found: LiveResults) -> Iterator[str]:
    everything = [one for results in found.emit.values() for one in results.values()]
    yield (
        "POST of an item by a generated resource, with an event in the log of the owner's stream, "
        "as `items` ships, and without; 32 connections."
    )
    yield from ("", _disturbance([each for one in everything for each in one.samples]))


def _emit(found: LiveResults) -> Iterator[str]:
    rows: list[Row] = []
    for kind, results in found.emit.items():
        silent, naive = _rate(results[SILENT.key]), _rate(results[NAIVE.key])
        rows += [
            (
                DATABASES[kind],
                one.contender.name,
                f"{_rate(one):.0f}{_mark(one.samples)}",
                f"{_rate(one) / naive:.2f}",
                f"{_rate(one) / silent:.2f}",
                f"{one.middle('cpu'):.0f}",
                f"{one.middle('p50'):.1f}",
                f"{one.middle('p99'):.1f}",
                f"{sum(sample.failed for sample in one.samples)}",
            )
            for one in results.values()
        ]
    columns = (
        "", "contender", "req/s", "x FastAPI", "of that without", "CPU µs", "p50 ms", "p99 ms",
        "failed",
    )  # fmt: skip
    return table(columns, rows)


def _rate(one: EmitResult) -> float:
    return one.middle("rate")


def _mark(samples: Sequence[Measured]) -> str:
    """Whether there is nothing that was not disturbed."""
    return "*" if all(sample.disturbed for sample in samples) else ""


def _disturbance(samples: Sequence[Measured]) -> str:
    foreign = [sample.foreign for sample in samples]
    disturbed = sum(each > LIMIT for each in foreign)
    return (
        f"Foreign load: {median(foreign):.1%} of a core in the middle, {max(foreign):.1%} at "
        f"worst; {disturbed} of {len(foreign)} samples had more than {LIMIT:.0%} to the end, and "
        f"count only where there are no others (marked *)."
    )
