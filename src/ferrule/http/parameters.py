"""What a planned route takes from a request: scalars, one query model, one JSON body."""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin
from uuid import UUID

from fastapi import params
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_validation_alias
from fastapi.routing import RouteContext
from pydantic import BaseModel
from starlette.requests import Request

SCALARS = (str, int, float, bool, UUID, datetime, date, time, timedelta, Decimal, Enum)
_AS_THEY_ARE = (str, int, float, bool, NoneType)


class NotPlanned(Exception):
    """A route holds something that only FastAPI itself can do."""


class Refused(Exception):
    """The input does not pass; FastAPI says why."""


class Parameter:
    """One argument that comes from the request."""

    def __init__(self, field: Any) -> None:
        self.name: str = field.name
        self._validate = field._type_adapter.validator.validate_python
        self._field = field

    def read(self, request: Request, body: Any) -> Any:
        """The validated value. Raises `Refused`."""
        raise NotImplementedError

    def _checked(self, value: Any) -> Any:
        try:
            return self._validate(value, from_attributes=True)
        except Exception:
            # Also what a validator raises by mistake: FastAPI asks who is calling before.
            raise Refused from None


class Scalar(Parameter):
    """A value of the path, the query or the headers."""

    def __init__(self, field: Any, source: str) -> None:
        super().__init__(field)
        info = field.field_info
        alias = get_validation_alias(field)
        if not _is_scalar(info.annotation):
            raise NotPlanned
        if info.validation_alias is not None and not isinstance(info.validation_alias, str):
            raise NotPlanned
        if info.validate_default:
            raise NotPlanned
        self._source = source
        self._alias = alias
        self._required: bool = info.is_required()
        default = None if self._required else info.default
        # FastAPI copies defaults; these need no copy.
        self._shared = info.default_factory is None and isinstance(default, _AS_THEY_ARE)
        self._default = default

    def read(self, request: Request, body: Any) -> Any:
        value: Any = getattr(request, self._source).get(self._alias)
        if value is not None:
            return self._checked(value)
        if self._required:
            raise Refused
        return self._default if self._shared else deepcopy(self._field.default)


class QueryModel(Parameter):
    """A model whose fields are query parameters."""

    def __init__(self, field: Any) -> None:
        super().__init__(field)
        model = cast(type[BaseModel], field.field_info.annotation)
        if model.model_config.get("extra") == "allow":
            raise NotPlanned
        for each in model.model_fields.values():
            if each.alias or each.validation_alias or not _is_scalar(each.annotation):
                raise NotPlanned
        self._names = frozenset(model.model_fields)
        self._forbids = model.model_config.get("extra") == "forbid"

    def read(self, request: Request, body: Any) -> Any:
        given: dict[str, Any] = dict(request.query_params)
        if not self._names.issuperset(given):
            if self._forbids:
                raise Refused
            for name in given.keys() - self._names:
                values = request.query_params.getlist(name)
                given[name] = values[0] if len(values) == 1 else values
        return self._checked(given)


class Body(Parameter):
    """The JSON body."""

    def is_of(self, field: Any) -> bool:
        """Whether another call takes the same body as the same type."""
        own, other = self._field.field_info, field.field_info
        return (self.name, own.annotation, own.metadata) == (
            field.name, other.annotation, other.metadata,
        )  # fmt: skip

    def read(self, request: Request, body: Any) -> Any:
        return self._checked(body)


def body_of(route: RouteContext) -> Body | None:
    """The body that a route takes. Raises `NotPlanned` for forms, and for several in one."""
    if route.body_field is None:
        return None
    info = route.body_field.field_info
    strict = route.strict_content_type
    if isinstance(strict, DefaultPlaceholder):
        strict = strict.value
    if route._embed_body_fields or not strict or isinstance(info, params.Form):
        raise NotPlanned
    return Body(route.body_field)


def parameters_of(dependant: Dependant, body: Body | None) -> Iterator[Parameter]:
    """What one call takes from the request. Raises `NotPlanned`."""
    for field in dependant.path_params:
        yield Scalar(field, "path_params")
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            yield QueryModel(field)
        else:
            yield Scalar(field, "query_params")
    for field in dependant.header_params:
        yield Scalar(field, "headers")
    for field in dependant.body_params:
        if body is None or not body.is_of(field):
            raise NotPlanned
        yield body


def _is_scalar(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_scalar(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return all(part is NoneType or _is_scalar(part) for part in get_args(annotation))
    if origin is Literal:
        return True
    return inspect.isclass(annotation) and issubclass(annotation, SCALARS)
