"""The pytest plugin that a project on Ferrule uses: an app, a client, actors, both databases.

It is loaded by itself where Ferrule is installed. Fixtures:

- `app`: the project's application, started on an empty database with its schema
- `client`: an `httpx.AsyncClient` that nobody is signed in with
- `actors`: makes signed-in clients: `ann = await actors("ann")`, and administrators:
  `root = await actors("root", admin=True)`; `ann.socket()` is a WebSocket of hers
- `worker`: runs the jobs that are due: `await worker.drain()`

Every test that uses one of them runs on SQLite, and on PostgreSQL where it answers at
`FERRULE_TEST_POSTGRES_URL` (by default `postgresql://postgres@127.0.0.1:5432/postgres`).
"""

from ferrule.testing.actors import ActorClient, Actors
from ferrule.testing.databases import TestDatabases
from ferrule.testing.sockets import Disconnected, Refused, TestSocket

__all__ = ["ActorClient", "Actors", "Disconnected", "Refused", "TestDatabases", "TestSocket"]
