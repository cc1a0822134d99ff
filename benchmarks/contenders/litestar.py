"""Litestar with advanced-alchemy as its documentation writes it: JWTAuth, a service, msgspec.

Tried: `auto_refresh=False` makes POST a tenth cheaper; to leave out OpenAPI and logging, or the
window function of the count, gains nothing. The service commits: the plugin's `autocommit` handler
is as fast, but answers 201 also when the COMMIT fails.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    filters,
    providers,
    repository,
    service,
)
from litestar import Controller, Litestar, Request, get, post
from litestar.connection import ASGIConnection
from litestar.security.jwt import JWTAuth, Token
from msgspec import Meta, Struct, field

from benchmarks.contenders.tables import KEY, URL, Item, User

ItemRequest = Request[User, Token, Any]

alchemy = SQLAlchemyAsyncConfig(
    connection_string=URL.render_as_string(hide_password=False),
    session_config=AsyncSessionConfig(expire_on_commit=False),
)


class ItemIn(Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    description: Annotated[str, Meta(max_length=10_000)] | None = None
    status: Annotated[str, Meta(max_length=50)] = ""
    price: Decimal | None = None
    quantity: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 1
    metadata_: dict[str, Any] = field(default_factory=dict, name="metadata")


class ItemOut(ItemIn, kw_only=True):
    id: UUID
    owner_id: UUID
    revision: int
    created_at: datetime
    updated_at: datetime


class ItemService(service.SQLAlchemyAsyncRepositoryService[Item]):
    class Repository(repository.SQLAlchemyAsyncRepository[Item]):
        model_type = Item

    repository_type = Repository


class ItemController(Controller):
    path = "/api/v1/items"
    dependencies = providers.create_service_dependencies(ItemService, "items")

    @get("/{item_id:uuid}")
    async def read(self, items: ItemService, request: ItemRequest, item_id: UUID) -> ItemOut:
        item = await items.get_one(Item.id == item_id, Item.owner_id == request.user.id)
        return items.to_schema(item, schema_type=ItemOut)

    @get()
    async def listing(
        self, items: ItemService, request: ItemRequest, limit: int = 50, offset: int = 0
    ) -> service.OffsetPagination[ItemOut]:
        window = filters.LimitOffset(limit, offset)
        order = filters.OrderBy("id", "desc")
        mine = Item.owner_id == request.user.id
        rows, total = await items.get_many_and_count(mine, window, order)
        return items.to_schema(rows, total, [window], schema_type=ItemOut)

    @post()
    async def create(self, items: ItemService, request: ItemRequest, data: ItemIn) -> ItemOut:
        item = await items.to_model(data, "create")
        item.owner_id = request.user.id
        item = await items.create(item, auto_commit=True)
        return items.to_schema(item, schema_type=ItemOut)


async def find_user(token: Token, connection: ASGIConnection[Any, Any, Any, Any]) -> User | None:
    session = alchemy.provide_session(connection.app.state, connection.scope)
    user = await session.get(User, UUID(token.sub))
    return None if user is None or user.disabled else user


authentication = JWTAuth[User](
    retrieve_user_handler=find_user,
    token_secret=KEY,  # type: ignore[arg-type]
    accepted_audiences=["ferrule"],
)
app = Litestar(
    [ItemController],
    on_app_init=[authentication.on_app_init],
    plugins=[SQLAlchemyPlugin(alchemy)],
)
