"""The documentation pages: Swagger UI and Redoc, served from here under their own policy."""

from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ["CONTENT_SECURITY_POLICY", "docs_routes"]

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        # Both pages set style attributes and add style elements as they render.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        # Redoc builds its search worker from a blob.
        "worker-src 'self' blob:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    ]
)

ASSETS = Path(__file__).parent / "assets"

# The table of the host's operating system may say otherwise, and browsers refuse a wrong one.
CONTENT_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}

SWAGGER_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="./assets/favicon.png?v={version}">
<link rel="stylesheet" href="./assets/swagger-ui.css?v={version}">
</head>
<body style="margin: 0">
<div id="swagger-ui"></div>
<script src="./assets/swagger-ui-bundle.js?v={version}"></script>
<script src="./assets/swagger-init.js?v={version}" data-openapi-url="{openapi_url}"
 data-oauth2-redirect-url="./docs/oauth2-redirect"></script>
</body>
</html>
"""

OAUTH2_REDIRECT_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
</head>
<body>
<script src="../assets/oauth2-redirect.js?v={version}"></script>
</body>
</html>
"""

REDOC_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="./assets/favicon.png?v={version}">
</head>
<body style="margin: 0">
<div id="redoc"></div>
<script src="./assets/redoc.standalone.js?v={version}"></script>
<script src="./assets/redoc-init.js?v={version}" data-openapi-url="{openapi_url}"></script>
</body>
</html>
"""


def docs_routes(*, title: str, openapi_url: str = "/openapi.json") -> list[BaseRoute]:
    """The routes `/`, `/docs`, `/docs/oauth2-redirect`, `/redoc` and `/assets/{file}`.

    Every address in the pages is relative, so they work behind any path prefix, whether or not
    the proxy tells it. `openapi_url` is a path of this application or a full address of its
    origin (the policy allows no other).
    """

    def page(path: str, template: str) -> Route:
        # A leading slash would leave the prefix of a proxy.
        relative = f".{openapi_url}" if openapi_url.startswith("/") else openapi_url

        async def answer(request: Request) -> Response:
            body = template.format(
                title=escape(title), version=_version(), openapi_url=escape(relative)
            )
            return HTMLResponse(body, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

        return Route(path, answer, include_in_schema=False)

    return [
        Route("/", _to_docs, include_in_schema=False),
        page("/docs", SWAGGER_PAGE),
        page("/docs/oauth2-redirect", OAUTH2_REDIRECT_PAGE),
        page("/redoc", REDOC_PAGE),
        Mount("/assets", app=_Assets(directory=ASSETS)),
    ]


async def _to_docs(request: Request) -> Response:
    return RedirectResponse("./docs")


@cache
def _version() -> str:
    """Changes with the assets; worked out when a page is first asked for."""
    digest = sha256()
    for file in sorted(ASSETS.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


class _Assets(StaticFiles):
    """Immutable for who asks with the present version, revalidated for everybody else."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        current = query.get("v") == [_version()]
        response.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if current else "no-cache"
        )
        if content_type := CONTENT_TYPES.get(Path(path).suffix):
            response.headers["Content-Type"] = content_type
        return response
