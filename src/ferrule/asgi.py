"""The application for ASGI servers: `uvicorn ferrule.asgi:app`."""

import sys

from ferrule.app import create_app
from ferrule.errors import ConfigurationError

try:
    app = create_app()
except ConfigurationError as error:
    print(error, file=sys.stderr)
    raise SystemExit(2) from None
