"""Django Channels: a consumer in a group that lives in Redis."""

import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

LAYER = "channels_redis.core.RedisChannelLayer"
# It waits for five seconds at a time, and redis-py 8 gives up after as many.
REDIS = {"address": os.environ.get("BENCHMARK_REDIS"), "socket_timeout": None}
# Nobody is left in it from another run.
GROUP = f"arena-{os.getpid()}"

settings.configure(
    SECRET_KEY="only for a benchmark",
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": LAYER,
            "CONFIG": {"hosts": [REDIS], "prefix": "ferrule_benchmark"},
        }
    },
)
django.setup()


class Reader(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(GROUP, {"type": "shout", "text": text_data})

    async def shout(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": URLRouter([path("", Reader.as_asgi())])})
