"""The process of a Redis on this machine: to pin it, and to know it for ours."""

from redis import Redis, RedisError

from benchmarks import processes


def server(url: str) -> int | None:
    """Its id, 0 if it runs elsewhere, None if there is no Redis."""
    try:
        with Redis.from_url(url, socket_connect_timeout=2) as redis:
            pid = int(redis.info("server")["process_id"])
    except (RedisError, OSError):
        return None
    return pid if "redis" in processes.command(pid) else 0


def described(url: str, server: int | None) -> str:
    """Its version, and whether it keeps what it is given."""
    if server is None:
        return "There is no Redis: what is kept in it was left out."
    with Redis.from_url(url) as redis:
        version = redis.info("server")["redis_version"]
        appends = redis.config_get("appendonly").get("appendonly", "no")
        saves = redis.config_get("save").get("save", "")
    kept = "appends to a file" if appends == "yes" else "snapshots" if saves else "in memory alone"
    return f"Redis {version} ({kept})."
