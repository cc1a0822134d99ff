"""What the running application offers to services, found by type."""

from typing import Any, TypeVar

from ferrule.errors import ConfigurationError

T = TypeVar("T")


class Kit:
    """Holds one object of each type: settings groups, the database, the password hasher, …

    A service reaches it as `session.kit[AuthSettings]`; a module's `lifespan` adds to it with
    `kit.provide(thing)`. Asking for what nobody provided is a `ConfigurationError`.
    """

    def __init__(self, *things: object) -> None:
        self._things: dict[type[Any], Any] = {}
        for thing in things:
            self.provide(thing)

    def provide(self, thing: object, *, kind: type[Any] | None = None) -> None:
        """Offer `thing` under its own type, or under `kind` (a protocol it fulfils)."""
        self._things[kind or type(thing)] = thing

    def __getitem__(self, kind: type[T]) -> T:
        try:
            return self._things[kind]
        except KeyError:
            raise ConfigurationError(
                f"Nothing provides {kind.__qualname__}: add its module to the application, "
                f"or provide it in a module's lifespan with kit.provide(…)."
            ) from None

    def __contains__(self, kind: type[Any]) -> bool:
        return kind in self._things
