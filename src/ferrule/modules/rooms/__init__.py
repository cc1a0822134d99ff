"""Rooms: a small chat, whose messages and changes are streams."""

from ferrule import Module
from ferrule.modules.rooms.api import router
from ferrule.modules.rooms.channels import CHANNELS
from ferrule.modules.rooms.departure import leave_all, redact_rooms
from ferrule.modules.rooms.models import Room, RoomMember, RoomMessage
from ferrule.modules.rooms.settings import RoomsSettings

__all__ = ["Room", "RoomMember", "RoomMessage", "RoomsSettings", "module"]

module = Module(
    name="rooms",
    requires=("auth",),
    router=router,
    models=(Room, RoomMember, RoomMessage),
    settings=RoomsSettings,
    channels=CHANNELS,
    jobs=(redact_rooms,),
    on_user_deleted=leave_all,
)
