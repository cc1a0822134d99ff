"""The application of the drills of streams: whoever asks writes, whoever is signed in reads."""

import asyncio
from typing import Any
from uuid import UUID

from fastapi import APIRouter

from ferrule import Invalid, Module, Schema, create_app, public
from ferrule.db import Write
from ferrule.modules import auth
from ferrule.streams import Channel


class Batch(Schema):
    """Events of one transaction."""

    numbers: list[int]
    padding: str = ""
    at: float = 0.0
    pause: float = 0.0
    """Seconds that the transaction stays open."""
    refuse: bool = False
    """It is rolled back."""


router = APIRouter(tags=["drill"])


@router.post("/drill/{id}", status_code=204)
async def write(id: UUID, batch: Batch, session: Write) -> None:
    await session.flush()
    for number in batch.numbers:
        data = {"number": number, "padding": batch.padding, "at": batch.at}
        session.emit(f"drill/{id}", "told", data)
    await asyncio.sleep(batch.pause)
    if batch.refuse:
        raise Invalid("told to refuse")


async def anybody(session: Any, actor: Any, id: UUID) -> None: ...


module = Module(
    name="drill",
    requires=("auth",),
    router=router,
    access=public,
    channels=(Channel(kind="drill", authorize=anybody),),
)
app = create_app(modules=[auth.module, module])
