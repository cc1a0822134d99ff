"""The access of probes and scrapers."""

from starlette.requests import HTTPConnection

from ferrule.actor import ANONYMOUS, Access, Actor, public


class Probe(Access):
    """Public access that asks nobody who is calling.

    A probe must get its answer with a stale cookie and a lost database, and a scraper shows a
    bearer token that is no access token: asking the doors would refuse both.
    """

    async def __call__(self, connection: HTTPConnection) -> Actor:
        return ANONYMOUS


probe = Probe(public.name, public.allows, anonymous=True)
