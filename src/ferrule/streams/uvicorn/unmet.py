"""What our protocols stand on of uvicorn and websockets, which do not promise to keep it."""

import asyncio
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.server import ServerProtocol

HTTP_METHODS = (
    *("_start_asgi_task", "connection_lost", "eof_received", "handle_websocket_upgrade"),
    *("on_message_begin", "on_response_complete", "pause_writing", "resume_writing"),
    *("shutdown", "timeout_keep_alive_handler"),
)
METHODS = {
    "__init__": ("config", "server_state", "app_state", "_loop"),
    "connection_made": ("transport",),
    "connection_lost": ("exc",),
    "eof_received": (),
    "pause_writing": (),
    "resume_writing": (),
    "data_received": ("data",),
    "shutdown": (),
    "send_keepalive_ping": (),
    "keepalive_timeout": (),
    "send": ("message",),
    "receive": (),
    "on_task_complete": ("task",),
    "handle_connect": ("event",),
    "handle_cont": ("event",),
    "send_receive_event_to_app": (),
    "handle_ping": (),
    "handle_pong": ("event",),
    "handle_close": ("event",),
    "handle_parser_exception": (),
}
"""Methods of uvicorn's protocol that are replaced or called here, with their parameters."""
ATTRIBUTES = (
    *("close_sent", "close_timer", "config", "conn", "connections", "disconnected", "frames"),
    *(
        "handshake_complete",
        "handshake_initiated",
        "initial_response",
        "loop",
        "queue",
        "read_paused",
        "tasks",
    ),
    *("transport", "writable"),
)
"""What it keeps of a connection and is used here."""
CONNECTION = ("close_sent", "events", "handshake_exc", "parser", "reader", "state", "writes")
CONNECTION_METHODS = (
    *("data_to_send", "events_received", "fail", "parse", "receive_data", "reject", "send_close"),
    "send_response",
)
"""The same of the protocol of websockets."""


def unmet() -> list[str]:
    """What uvicorn or websockets do not have any more of what this stands on; empty if all fits."""
    found = list(_changed_methods())
    config = SimpleNamespace(
        **{"loaded": True, "loaded_app": None, "root_path": "", "asgi_version": "3.0"},
        **{"ws_per_message_deflate": False, "ws_max_size": 1, "should_reload": False},
        **{"ws_ping_interval": None, "ws_ping_timeout": None},
    )
    try:
        loop = cast(asyncio.AbstractEventLoop, SimpleNamespace())
        made = WebSocketsSansIOProtocol(cast(Any, config), ServerState(), {}, _loop=loop)
        conn = made.conn
    except (AttributeError, TypeError) as error:
        return [*found, f"uvicorn's WebSocketsSansIOProtocol cannot be made: {error}"]
    found += [
        f"uvicorn's WebSocketsSansIOProtocol has no {name}"
        for name in ATTRIBUTES
        if name not in vars(made)
    ]
    if not isinstance(cast(Any, conn), ServerProtocol):
        return [*found, "uvicorn's WebSocketsSansIOProtocol.conn is no websockets ServerProtocol"]
    return found + [
        f"websockets' ServerProtocol has no {name}"
        for name in (*CONNECTION, *CONNECTION_METHODS)
        if not hasattr(conn, name)
    ]


def _changed_methods() -> Iterator[str]:
    for name in HTTP_METHODS:
        if not hasattr(HttpToolsProtocol, name):
            yield f"uvicorn's HttpToolsProtocol has no {name}"
    for name, parameters in METHODS.items():
        method = getattr(WebSocketsSansIOProtocol, name, None)
        if method is None:
            yield f"uvicorn's WebSocketsSansIOProtocol has no {name}"
        elif tuple(inspect.signature(method).parameters)[1:] != parameters:
            yield f"uvicorn's WebSocketsSansIOProtocol.{name} does not take {parameters}"
