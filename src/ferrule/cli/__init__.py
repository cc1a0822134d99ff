"""The command line: `ferrule`."""

import sys


def main() -> None:
    """Run a command. Exit status: 0 done, 1 failed, 2 wrong use or configuration."""
    from ferrule.cli.commands import app

    try:
        app(prog_name="ferrule")
    except Exception as failure:
        status = _expected(failure)
        if status is None:
            raise
        print(f"Error: {getattr(failure, 'detail', failure)}", file=sys.stderr)
        raise SystemExit(status) from None


def _expected(failure: Exception) -> int | None:
    """The exit status for a failure that needs no traceback."""
    from ferrule.db.migrations import MigrationError
    from ferrule.errors import ConfigurationError, Error

    if isinstance(failure, ConfigurationError):
        return 2
    return 1 if isinstance(failure, MigrationError | Error) else None
