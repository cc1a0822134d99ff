"""What is told live: to each user, of their own inbox."""

from uuid import UUID

from ferrule.streams import Channel

channel = Channel(kind="notifications", personal=True, keep_days=30, keep_events=1000)


def inbox_of(user_id: UUID) -> str:
    """The stream of a user's inbox. Its events are `created`, `read` and `deleted`."""
    return f"{channel.kind}/{user_id}"
