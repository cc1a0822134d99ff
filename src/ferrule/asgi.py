"""The application for ASGI servers: `uvicorn ferrule.asgi:app`.

The time of a start is that of its imports. What they can do without is known here, where nobody
else's code is imported: the collector, what libraries import in case that it is there, and
validators of models before they are used.
"""

import gc
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from pydantic import BaseModel
from pydantic.warnings import UnsupportedFieldAttributeWarning

SPARED = ("rich", "pydantic.v1", "email_validator")
"""What structlog imports for tracebacks in color, FastAPI to refuse the models of old and to check
the address of a contact, which we do not name."""


@contextmanager
def _light() -> Generator[None]:
    """Import and build what the first answer needs, and nothing else."""
    # Nearly all that is made until the application stands will stay: looking through it again and
    # again as it comes takes a fifth of the start.
    gc.disable()
    spared = set(SPARED).difference(sys.modules)
    for name in spared:
        sys.modules[name] = cast(Any, None)
    BaseModel.model_config["defer_build"] = True
    # FastAPI's own bodies, which give cause for it when they are built, ignore it where they build
    # them at once.
    warnings.filterwarnings(
        "ignore", "The 'alias' attribute", category=UnsupportedFieldAttributeWarning
    )
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]
        for name in spared:
            del sys.modules[name]
        gc.freeze()
        gc.enable()


with _light():
    from ferrule.app import create_app
    from ferrule.errors import ConfigurationError

    try:
        app = create_app()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
