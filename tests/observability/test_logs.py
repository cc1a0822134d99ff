import json
import logging
import re
import time

import pytest
import structlog

from ferrule.observability.logs import configure, log_request

CANARY = "canary7Yq2Zx"
REQUEST = {
    "request_id": "01926f3e-aaaa-7bbb-8ccc-0123456789ab",
    "method": "GET",
    "route": "/api/v1/items/{item_id}",
    "status": 200,
    "duration_ms": 3.45678,
    "actor": "user:1",
    "client": "203.0.113.9",
}


def configure_alone(level, form="json"):
    """As in production, without pytest's own handlers; the fixture `stderr` puts them back."""
    logging.getLogger().handlers.clear()
    configure(level, form)


def test_structlog_and_stdlib_come_out_alike(stderr):
    configure("info", "json")
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("ours").info("hello %s", "you", item=3)
    logging.getLogger("theirs").warning("hello %s", "you", extra={"item": 3})
    ours, theirs = stderr.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", ours.pop("timestamp"))
    theirs.pop("timestamp")
    assert ours == {
        "event": "hello you", "item": 3, "level": "info", "logger": "ours", "request_id": "r1",
    }  # fmt: skip
    assert theirs == {**ours, "level": "warning", "logger": "theirs"}


def test_configuring_again_replaces(stderr):
    configure("debug", "json")
    configure("info", "text")
    configure("warning", "json")
    structlog.get_logger("a").info("no")
    logging.getLogger("b").error("yes")
    assert [line["event"] for line in stderr.lines] == ["yes"]


def test_handlers_of_servers_are_taken_over(stderr):
    server, access = logging.getLogger("uvicorn"), logging.getLogger("uvicorn.access")
    for logger in (server, access):
        logger.addHandler(logging.StreamHandler(stderr))
        logger.propagate = False
        logger.setLevel(logging.INFO)
    configure("info", "json")
    logging.getLogger("uvicorn.error").info("Started", extra={"color_message": "\x1b[1mStarted"})
    access.info('127.0.0.1 - "GET /reset?token=%s"', CANARY)
    assert [line["event"] for line in stderr.lines] == ["Started"]
    assert "color_message" not in stderr.getvalue()
    assert not access.hasHandlers()
    configure("warning", "json")
    server.info("not above the level")
    assert len(stderr.lines) == 1


def test_debug_does_not_open_the_drivers_parameters(stderr):
    configure("debug", "json")
    logging.getLogger("aiosqlite").debug("executing INSERT (%s)", CANARY)
    logging.getLogger("python_multipart.multipart").debug("Calling on_part_data with %s", CANARY)
    logging.getLogger("httpx").info("HTTP Request: GET https://x/?code=%s", CANARY)
    logging.getLogger("ferrule.db").debug("ours")
    assert [line["event"] for line in stderr.lines] == ["ours"]


def test_caplog_still_sees_records(stderr, caplog):
    configure("info", "json")
    logging.getLogger("theirs").warning("seen")
    log_request(**REQUEST)
    assert caplog.messages[0] == "seen"
    assert caplog.records[1].msg["route"] == REQUEST["route"]
    assert len(stderr.lines) == 2


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_leaves(stderr, form):
    configure("info", form)
    log = structlog.get_logger("app")

    def fail(password):
        local = f"{password} in a local"
        raise ValueError(f"cannot connect to postgresql://app:{password}@db/app", len(local))

    log.info(f"login with Bearer {CANARY}", password=CANARY, nested={"a": [{"cookie": CANARY}]})
    logging.getLogger("driver").error("url %s", f"redis://:{CANARY}@cache")
    try:
        try:
            fail(CANARY)
        except ValueError as error:
            raise RuntimeError(f"token={CANARY}") from error
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("driver").exception("failed too")
    log.info("stack", stack_info=True)
    log.info("bound", **{f"password={CANARY}": 1, "a": f"\nCookie: s={CANARY}"})
    output = stderr.getvalue()
    assert CANARY not in output
    assert output.count("RuntimeError: ") == 2
    assert output.count("ValueError: ") == 2


def test_an_exception_is_one_field_of_json(stderr):
    configure("info", "json")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        structlog.get_logger("a").exception("failed")
    (line,) = stderr.lines
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("form", ["json", "text"])
def test_values_cannot_forge_lines(stderr, form):
    configure_alone("info", form)
    forged = "\r\n2026-01-01T00:00:00Z [info] admin signed in\x1b[2J\u2028\u202e\x85\ud800"
    log = structlog.get_logger("app")
    log.info(forged, value=forged, nested={forged: [forged]}, **{forged: 1})
    logging.getLogger(f"name{forged}").warning("x %s", forged)
    log_request(**{**REQUEST, "method": forged, "request_id": forged, "client": forged})
    lines = stderr.getvalue().split("\n")
    assert len(lines) == 4
    assert lines[3] == ""
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]", stderr.getvalue())
    assert "admin signed in" in lines[0]


def test_exceptions_cannot_forge_lines_of_text(stderr):
    configure("info", "text")
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z [info] forged\r\x1b[2J")
    except ValueError:
        structlog.get_logger("a").exception("failed")
    first, *rest = stderr.getvalue().rstrip("\n").split("\n")
    assert "failed" in first
    assert all(line.startswith("    ") for line in rest)
    assert "\r" not in stderr.getvalue()
    assert "\x1b" not in stderr.getvalue()


def test_the_format_follows_the_terminal(stderr, monkeypatch):
    configure("info")
    logging.getLogger("a").info("one")
    assert json.loads(stderr.getvalue())["event"] == "one"
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    configure("info")
    logging.getLogger("a").info("two")
    assert "\x1b[" in stderr.getvalue().splitlines()[1]
    configure("info", "json")
    logging.getLogger("a").info("three")
    assert json.loads(stderr.getvalue().splitlines()[2])["event"] == "three"


def test_a_line_that_fails_shows_nothing_of_itself(stderr):
    configure_alone("info")
    logging.getLogger("a").info("%d", CANARY)
    assert stderr.getvalue() == "A line of 'a' could not be logged: TypeError\n"


@pytest.mark.parametrize(("status", "level"), [(200, "info"), (404, "info"), (503, "error")])
def test_the_line_of_a_request(stderr, status, level):
    configure_alone("info")
    log_request(**{**REQUEST, "status": status})
    (line,) = stderr.lines
    assert line.pop("timestamp")
    assert line == {
        **REQUEST, "status": status, "duration_ms": 3.457,
        "event": "request", "level": level, "logger": "ferrule.request",
    }  # fmt: skip


def test_the_short_way_of_a_request_logs_the_same(stderr):
    configure_alone("info")
    hostile = {**REQUEST, "request_id": f"Bearer {CANARY}", "method": "\r\n\ud800", "client": None}
    log_request(**hostile)
    logging.getLogger().addHandler(logging.NullHandler())
    log_request(**hostile)
    short, long = stderr.lines
    assert CANARY not in stderr.getvalue()
    assert {**short, "timestamp": ""} == {**long, "timestamp": ""}


def test_filters_and_levels_hold_for_requests_too(stderr):
    configure_alone("error")
    log_request(**REQUEST)
    configure_alone("info")
    requests = logging.getLogger("ferrule.request")
    quiet = lambda record: False  # noqa: E731
    requests.addFilter(quiet)
    log_request(**REQUEST)
    requests.removeFilter(quiet)
    assert stderr.getvalue() == ""


def test_the_line_of_a_request_is_cheap(stderr):
    configure_alone("info")
    best = float("inf")
    for _ in range(20):
        started = time.process_time()
        for _ in range(100):
            log_request(**REQUEST)
        best = min(best, (time.process_time() - started) / 100)
    # Measured at a sixth of this; the rest is for slow machines.
    assert best < 60e-6
