"""What rooms refuse."""

from ferrule.errors import Conflict, Forbidden


class NotAMember(Forbidden):
    code = "not_a_member"

    def __init__(self) -> None:
        super().__init__("Join the room first.")


class AlreadyAMember(Conflict):
    code = "already_a_member"

    def __init__(self) -> None:
        super().__init__("They are in the room already.")


class LastOwner(Conflict):
    code = "last_owner"

    def __init__(self) -> None:
        super().__init__("A room keeps an owner: make somebody else one first.")


class DirectRoom(Conflict):
    code = "direct_room"

    def __init__(self) -> None:
        super().__init__("A direct room stays as it is.")


class Yourself(Conflict):
    code = "yourself"

    def __init__(self) -> None:
        super().__init__("A direct room is one of two: name somebody else.")


class RoomFull(Conflict):
    code = "room_full"

    def __init__(self) -> None:
        super().__init__("The room has as many members as a room may have.")


class TooManyRooms(Conflict):
    code = "too_many_rooms"

    def __init__(self) -> None:
        super().__init__("You are in as many rooms as one may make or join: leave one.")


class MessageDeleted(Conflict):
    code = "message_deleted"

    def __init__(self) -> None:
        super().__init__("The message was deleted.")
