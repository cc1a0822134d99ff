"""JSON columns notice changes at any depth: a flush compares what was loaded with what is there.

SQLAlchemy sees a new value, but not `item.data["a"][0]["b"] = 1`. Following each list and dict
with types of our own would change what people store; comparing does not.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import flag_modified, instance_dict

from ferrule.db.base import Base
from ferrule.db.types import Json, to_json

_keys: dict[Mapper[Any], tuple[str, ...]] = {}


def _json_keys(mapper: Mapper[Any]) -> tuple[str, ...]:
    if mapper not in _keys:
        _keys[mapper] = tuple(
            attribute.key
            for attribute in mapper.column_attrs
            if isinstance(attribute.columns[0].type, Json)
        )
    return _keys[mapper]


class JsonChanges(Session):
    """A session that saves changed JSON."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The instances are held: SQLAlchemy forgets those that look unchanged and are used no more.
        self._loaded: dict[int, tuple[Base, dict[str, str]]] = {}

    def remember(self, instance: Base, loaded: Iterable[str] | None = None) -> None:
        """Keep the JSON of an instance as it now stands in the database.

        That is what was `loaded`, if that was not all: the rest may have changed since.
        """
        keys = _json_keys(instance.__mapper__)
        if keys:
            state = instance_dict(instance)
            _, texts = self._loaded.get(id(instance), (instance, {}))
            if loaded is None:
                texts = {}
            for key in keys:
                if key in state and (loaded is None or key in loaded):
                    texts[key] = to_json(state[key])
            self._loaded[id(instance)] = (instance, texts)

    def flush(self, objects: Any = None) -> None:
        self.flag_changes()
        super().flush(objects)

    def flag_changes(self) -> None:
        """Mark every JSON attribute that differs from what was loaded."""
        for instance, texts in self._loaded.values():
            if instance not in self:
                continue
            state = instance_dict(instance)
            for key, before in texts.items():
                if key in state and to_json(state[key]) != before:
                    flag_modified(instance, key)


def _on_load(session: JsonChanges, instance: Any) -> None:
    if isinstance(instance, Base):
        session.remember(instance)


def _on_refresh(instance: Base, context: Any, loaded: Iterable[str] | None) -> None:
    session = getattr(context, "session", None)
    if isinstance(session, JsonChanges):
        session.remember(instance, loaded)


def _on_flush(session: JsonChanges, _: Any) -> None:
    for instance in (*session.new, *session.dirty):
        if isinstance(instance, Base):
            session.remember(instance)


# Of the session, not of the instance: rows that are only read pay nothing.
event.listen(JsonChanges, "loaded_as_persistent", _on_load)
event.listen(Base, "refresh", _on_refresh, propagate=True)
event.listen(JsonChanges, "after_flush", _on_flush)
# The commit of a session that looks unchanged does not flush.
event.listen(JsonChanges, "before_commit", JsonChanges.flag_changes)
