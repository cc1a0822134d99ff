"""The routes of jobs."""

from uuid import UUID

from fastapi import Request, Response

from ferrule.actor import SignedIn
from ferrule.db.database import Write
from ferrule.http.etag import etag
from ferrule.http.routes import API
from ferrule.jobs import service
from ferrule.jobs.models import Job
from ferrule.jobs.schemas import Accepted, JobResponse
from ferrule.resources import resource_router
from ferrule.resources.router import LOCATION

router = resource_router(service.jobs, without={"create", "replace", "update", "delete", "restore"})


def location(request: Request, job_id: UUID) -> str:
    """The address at which a job is watched."""
    return f"{request.scope.get('root_path', '').rstrip('/')}{API}/jobs/{job_id}"


def accepted(request: Request, response: Response, job_id: UUID) -> Accepted:
    """The answer of a route that enqueued a job: 202, and where to watch it.

    @router.post("/imports", status_code=202)
    async def start_import(
        data: Import, session: Write, actor: SignedIn, request: Request, response: Response
    ) -> Accepted:
        return accepted(request, response, await service.start_import(session, actor, data))
    """
    response.status_code = 202
    response.headers["Location"] = location(request, job_id)
    return Accepted(job_id=job_id)


@router.post(
    "/{id:uuid}/cancel", response_model=JobResponse, status_code=202, summary="Cancel a job"
)
async def cancel_job(id: UUID, session: Write, actor: SignedIn, response: Response) -> Job:
    """One that waits ends at once, one that runs within a second; 409 if it has ended."""
    job = await service.cancel(session, actor, id)
    response.headers["ETag"] = etag(job.revision)
    return job


@router.post(
    "/{id:uuid}/retry",
    status_code=202,
    responses={202: {"headers": LOCATION}},
    summary="Try a failed job again",
)
async def retry_job(
    id: UUID, session: Write, actor: SignedIn, request: Request, response: Response
) -> Accepted:
    """As a new job, because what has ended stays as it is; the same one if asked twice."""
    return accepted(request, response, await service.retry(session, actor, id))
