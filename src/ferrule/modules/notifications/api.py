"""The routes of notifications."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from ferrule.actor import SignedIn
from ferrule.db import Read, Write
from ferrule.http.etag import etag
from ferrule.http.problems import MEDIA_TYPE
from ferrule.jobs import accepted
from ferrule.modules.notifications import service
from ferrule.modules.notifications.models import Notification, NotificationPreferences
from ferrule.modules.notifications.schemas import (
    InboxQuery,
    NotificationResponse,
    Notified,
    Notify,
    Preferences,
    PreferencesPatch,
    Unread,
)
from ferrule.resources import resource_router
from ferrule.resources.page import Page, Pagination
from ferrule.resources.router import ETAG

LOCATION = {"schema": {"type": "string"}, "description": "Address of the mail's job, if any."}
NOTIFY: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": LOCATION}},
    404: {
        "description": "There is no such user; told to administrators alone",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    },
}

notify = APIRouter(tags=["notifications"])
inbox = APIRouter(prefix="/notifications", tags=["notifications"])
one = resource_router(
    service.notifications, without={"list", "create", "replace", "update", "restore"}
)


@notify.post("/notify", status_code=202, responses=NOTIFY, summary="Notify a user")
async def send(
    data: Notify, session: Write, actor: SignedIn, request: Request, response: Response
) -> Notified:
    """Administrators notify anybody, others themselves; whether the mail left, its job tells."""
    notified = await service.notify(session, actor, data)
    if notified.job_id is not None:
        accepted(request, response, notified.job_id)
    return notified


@inbox.get("", response_model=Page[NotificationResponse], summary="List notifications")
async def list_notifications(
    query: Annotated[InboxQuery, Query()], session: Read, actor: SignedIn
) -> dict[str, Any]:
    """Yours, the newest first."""
    listing = await service.inbox(session, actor, query)
    return {"items": listing.rows, "pagination": Pagination.of(listing)}


@inbox.get("/unread", summary="Count unread notifications")
async def count_unread(session: Read, actor: SignedIn) -> Unread:
    return await service.count_unread(session, actor)


@inbox.post("/read", summary="Mark all notifications read")
async def mark_all_read(session: Write, actor: SignedIn) -> Unread:
    return await service.mark_all_read(session, actor)


@inbox.get("/preferences", response_model=Preferences, summary="Get your preferences")
async def read_preferences(session: Read, actor: SignedIn) -> NotificationPreferences | Preferences:
    return await service.preferences(session, actor)


@inbox.patch("/preferences", response_model=Preferences, summary="Change your preferences")
async def update_preferences(
    data: PreferencesPatch, session: Write, actor: SignedIn
) -> NotificationPreferences:
    return await service.change_preferences(session, actor, data)


@one.post(
    "/{id:uuid}/read",
    response_model=NotificationResponse,
    responses={200: {"headers": ETAG}},
    summary="Mark one of notifications read",
)
async def mark_read(id: UUID, session: Write, actor: SignedIn, response: Response) -> Notification:
    """It keeps the time of the first time."""
    notification = await service.mark_read(session, actor, id)
    response.headers["ETag"] = etag(notification.revision)
    return notification


router = APIRouter()
router.include_router(notify)
# Before /notifications/{id}, which would take "unread" for an id.
router.include_router(inbox)
router.include_router(one)
