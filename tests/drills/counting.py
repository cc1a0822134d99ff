"""`ferrule`, whose SQLite writer notes each INSERT (`i`) and COMMIT (`c`) in the file `groups`.

A letter is there before the statement runs, and stays if the process is killed. Each process has
a line of its own.
"""

import os
from typing import Any

from ferrule.cli import main
from ferrule.db import sqlite

_connecting = sqlite.connect


def _connect(*arguments: Any) -> Any:
    connection = _connecting(*arguments)
    file = os.open("groups", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b"\n")

    def note(statement: str) -> None:
        if statement.startswith("INSERT INTO items"):
            os.write(file, b"i")
        elif statement == "COMMIT":
            os.write(file, b"c")

    connection.set_trace_callback(note)
    return connection


sqlite.connect = _connect
main()
