"""The generated routes of a resource: each parses, calls one function of the service, returns."""

from collections.abc import Callable, Collection
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from ferrule.actor import Actor
from ferrule.db.base import SoftDeleted
from ferrule.db.database import Read, Write
from ferrule.errors import ConfigurationError
from ferrule.http.etag import IfMatchHeader, etag, tag_matches
from ferrule.resources.direct import Direct
from ferrule.resources.page import Page, Pagination
from ferrule.resources.service import Action, Resource

ETAG = {"ETag": {"schema": {"type": "string"}, "description": "The row's revision."}}
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Address of the new row."}}


class ResourceRouter(APIRouter):
    """A router that knows its resource, whose channel the application declares by it."""

    def __init__(self, resource: Resource[Any]) -> None:
        super().__init__(prefix=f"/{resource.name}", tags=[resource.name])
        self.resource = resource


def resource_router(resource: Resource[Any], *, without: Collection[Action] = ()) -> APIRouter:
    """A router under `/<table>` with the routes of a resource, but those in `without`.

    Leave a route out to write it by hand on the same router.
    """
    unknown = set(without) - set(resource.actions)
    if unknown:
        raise ConfigurationError(f"without={sorted(unknown)}: routes are {resource.actions}.")
    left_out: set[Action] = set(without)
    if not issubclass(resource.model, SoftDeleted):
        left_out.add("restore")
    router = ResourceRouter(resource)
    direct = Direct(resource)
    for action, add in _ROUTES.items():
        if action not in left_out:
            add(router, direct)
    return router


def _endpoint(resource: Resource[Any], name: str, **annotations: Any) -> Callable[[Any], Any]:
    """Give a generated endpoint the types of its resource and a name for the documentation."""

    def typed(function: Any) -> Any:
        function.__annotations__ |= {
            "actor": Annotated[Actor, Depends(resource.access)],
            **annotations,
        }
        function.__name__ = name
        return function

    return typed


def _summary(resource: Resource[Any], verb: str) -> str:
    return f"{verb} {resource.name.replace('_', ' ')}"


def _with_etag(response: Response, row: Any) -> Any:
    response.headers["ETag"] = etag(row.revision)
    return row


def _list(router: APIRouter, direct: Direct[Any]) -> None:
    resource = direct.resource
    page = Page[resource.response_schema]

    @router.get("", response_model=page, summary=_summary(resource, "List"))
    @_endpoint(resource, "list", query=Annotated[resource.query_schema, Query()])
    async def list_rows(query: Any, session: Read, actor: Any) -> Any:
        listing = await direct.page(session, actor, query)
        return {"items": listing.rows, "pagination": Pagination.of(listing)}


def _get(router: APIRouter, direct: Direct[Any]) -> None:
    resource = direct.resource

    @router.get(
        "/{id:uuid}",
        response_model=resource.response_schema,
        responses={200: {"headers": ETAG}, 304: {"description": "Not changed"}},
        summary=_summary(resource, "Get one of"),
    )
    @_endpoint(resource, "get")
    async def get_row(
        id: UUID,
        session: Read,
        actor: Any,
        response: Response,
        if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
    ) -> Any:
        row = await direct.get(session, actor, id)
        if tag_matches(if_none_match, row.revision):
            return Response(status_code=304, headers={"ETag": etag(row.revision)})
        return _with_etag(response, row)


def _create(router: APIRouter, direct: Direct[Any]) -> None:
    resource = direct.resource

    @router.post(
        "",
        response_model=resource.response_schema,
        status_code=201,
        responses={201: {"headers": {**ETAG, **LOCATION}}},
        summary=_summary(resource, "Create one of"),
    )
    @_endpoint(resource, "create", data=resource.create_schema)
    async def create_row(
        data: Any, session: Write, actor: Any, request: Request, response: Response
    ) -> Any:
        row = direct.create(session, actor, data) or await resource.create(session, actor, data)
        response.headers["Location"] = f"{quote(request.scope['path'])}/{row.id}"
        return _with_etag(response, row)


def _replace(router: APIRouter, direct: Direct[Any]) -> None:
    resource = direct.resource

    @router.put(
        "/{id:uuid}",
        response_model=resource.response_schema,
        responses={200: {"headers": ETAG}},
        summary=_summary(resource, "Replace one of"),
    )
    @_endpoint(resource, "replace", data=resource.create_schema)
    async def replace_row(
        id: UUID,
        data: Any,
        session: Write,
        actor: Any,
        response: Response,
        if_match: IfMatchHeader,
    ) -> Any:
        return _with_etag(response, await resource.replace(session, actor, id, data, if_match))


def _update(router: APIRouter, direct: Direct[Any]) -> None:
    resource = direct.resource

    @router.patch(
        "/{id:uuid}",
        response_model=resource.response_schema,
        responses={200: {"headers": ETAG}},
        summary=_summary(resource, "Change one of"),
    )
    @_endpoint(resource, "update", data=resource.update_schema)
    async def update_row(
        id: UUID,
        data: Any,
        session: Write,
        actor: Any,
        response: Response,
        if_match: IfMatchHeader,
    ) -> Any:
        return _with_etag(response, await resource.update(session, actor, id, data, if_match))


def _delete(router: APIRouter, direct: Direct[Any]) -> None:
    resource = direct.resource

    @router.delete("/{id:uuid}", status_code=204, summary=_summary(resource, "Delete one of"))
    @_endpoint(resource, "delete")
    async def delete_row(id: UUID, session: Write, actor: Any, if_match: IfMatchHeader) -> None:
        await resource.delete(session, actor, id, if_match)


def _restore(router: APIRouter, direct: Direct[Any]) -> None:
    resource = direct.resource

    @router.post(
        "/{id:uuid}/restore",
        response_model=resource.response_schema,
        responses={200: {"headers": ETAG}},
        summary=_summary(resource, "Restore one of"),
    )
    @_endpoint(resource, "restore")
    async def restore_row(id: UUID, session: Write, actor: Any, response: Response) -> Any:
        return _with_etag(response, await resource.restore(session, actor, id))


_ROUTES: dict[Action, Callable[[APIRouter, Direct[Any]], None]] = {
    "list": _list,
    "get": _get,
    "create": _create,
    "replace": _replace,
    "update": _update,
    "delete": _delete,
    "restore": _restore,
}
