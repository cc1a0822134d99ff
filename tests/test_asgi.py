"""The application for ASGI servers starts light, and is the same application."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LOOK = """
import gc, json, sys
from pydantic import BaseModel
{application}
spared = ("rich", "pydantic.v1", "email_validator")
print(json.dumps({{
    "imported": [name for name in spared if sys.modules.get(name)],
    "blocked": [name for name in spared if name in sys.modules and not sys.modules[name]],
    "collecting": gc.isenabled(),
    "deferred": "defer_build" in BaseModel.model_config,
    "document": app.openapi(),
}}))
from ferrule.modules.auth.emails import normal
assert normal("Ann@example.com") == "ann@example.com"
"""


def _look(application: str, folder: Path) -> dict[str, Any]:
    """What a process of its own sees after it has imported the application."""
    environment = {**os.environ, "FERRULE_DATA_DIR": str(folder)}
    code = LOOK.format(application=application)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    # Neither an error, nor a word of libraries about what is not the user's.
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_it_imports_less_and_describes_the_same(tmp_path: Path) -> None:
    light = _look("from ferrule.asgi import app", tmp_path)
    plain = _look("from ferrule.app import create_app; app = create_app()", tmp_path)
    assert light["imported"] == []
    assert plain["imported"] != []
    assert light["document"] == plain["document"]
    # Nothing of it outlasts the import.
    assert (light["blocked"], light["collecting"], light["deferred"]) == ([], True, False)


def test_bad_settings_end_it_with_what_to_do(tmp_path: Path) -> None:
    environment = {**os.environ, "FERRULE_DATA_DIR": str(tmp_path), "FERRULE_PORT": "many"}
    done = subprocess.run(
        [sys.executable, "-c", "import ferrule.asgi"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "FERRULE_PORT" in done.stderr
    assert "Traceback" not in done.stderr
