"""The contenders, each served by one process."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """An application, the command that serves it, and the path of its items.

    `user` says how it knows who is calling and `output` what its answers go through, which cannot
    be seen from outside.
    """

    key: str
    name: str
    command: str
    user: str
    output: str
    path: str = "/api/v1/items"


def _asgi(key: str, name: str, target: str, **fields: str) -> Contender:
    return Contender(key, name, f"uvicorn {target} --port {{port}} --no-access-log", **fields)


FLOOR = _asgi("floor", "floor", "benchmarks.contenders.floor:app", user="nobody asks", output="-")
NAIVE = _asgi(
    "fastapi",
    "FastAPI, naive",
    "benchmarks.contenders.naive:app",
    user="user read",
    output="response_model",
)
DRF = Contender(
    "drf",
    "Django REST framework",
    "granian benchmarks.contenders.drf:application --interface wsgi --blocking-threads 2 "
    "--port {port} --no-ws",
    user="user read",
    output="serializer",
)
LITESTAR = _asgi(
    "litestar",
    "Litestar",
    "benchmarks.contenders.litestar:app",
    user="user read",
    output="msgspec struct",
)
FERRULE = _asgi(
    "ferrule",
    "Ferrule, generated",
    "ferrule.asgi:app",
    user="login and user, kept < 1 s",
    output="response_model",
)
ORM = _asgi(
    "ferrule-orm",
    "Ferrule, ORM",
    "benchmarks.contenders.ferrule_orm:app",
    user=FERRULE.user,
    output=FERRULE.output,
    path="/api/v1/orm-items",
)
PREBUILT = _asgi(
    "ferrule-prebuilt",
    "Ferrule, prebuilt",
    "benchmarks.contenders.ferrule_prebuilt:app",
    user=FERRULE.user,
    output=FERRULE.output,
    path="/api/v1/prebuilt-items",
)
CONTENDERS = (FLOOR, NAIVE, DRF, LITESTAR, FERRULE, ORM, PREBUILT)
