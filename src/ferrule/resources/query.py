"""The query parameters of a generated list, from the names that its resource declares."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from ferrule.db.listing import OPERATORS, Window
from ferrule.errors import ConfigurationError
from ferrule.schemas import TextSchema

MAX_TEXT = 2000
"""Characters of a text; servers take 64 KiB of an address."""
PAGING = frozenset({"limit", "offset", "page", "cursor", "count", "sort", "search"})


class ListQuery(TextSchema):
    """What every list can be asked. `offset`, `page` and `cursor` exclude each other."""

    model_config = ConfigDict(str_max_length=MAX_TEXT)

    limit: int = Field(default=50, ge=1, le=100, description="Rows of a page.")
    offset: int | None = Field(default=None, ge=0, le=10**12, description="Rows to skip.")
    page: int | None = Field(
        default=None, ge=1, le=10**12, description="Number of the page, from 1."
    )
    cursor: str | None = Field(
        default=None,
        description="`next` of the page before: as fast on the last page.",
    )
    count: bool | None = Field(
        default=None, description="Whether to count all; by default not with a cursor."
    )

    @model_validator(mode="after")
    def _one_way_of_paging(self) -> Self:
        ways = (self.offset, self.page, self.cursor)
        if sum(way is not None for way in ways) > 1:
            raise PydanticCustomError(
                "paging_conflict", "Give one of offset, page and cursor, not several."
            )
        return self

    def window(self) -> Window:
        offset = self.offset or 0
        if self.page is not None:
            offset = (self.page - 1) * self.limit
        count = self.count if self.count is not None else self.cursor is None
        return Window(self.limit, offset, self.cursor, count)

    def filters(self) -> Mapping[str, Any]:
        """The filters that were asked for, by their declared names."""
        return {
            name: value
            for name in type(self).model_fields
            if name not in PAGING and (value := getattr(self, name)) is not None
        }


def query_type(
    name: str,
    *,
    response: type[BaseModel],
    filters: Sequence[str],
    search: Sequence[str],
    sort: Sequence[str],
) -> type[ListQuery]:
    """The query of a list: a typed parameter for each declared filter, `sort` and `search`."""
    fields: dict[str, Any] = {}
    if sort:
        names = "|".join(sort)
        fields["sort"] = (
            str | None,
            Field(
                default=None,
                max_length=300,
                pattern=rf"^-?({names})(,-?({names}))*$",
                description=f"Of {', '.join(sort)}; `-` before a name turns it around.",
            ),
        )
    if search:
        fields["search"] = (
            str | None,
            Field(
                default=None,
                min_length=1,
                max_length=200,
                description=f"Text that {' or '.join(search)} contains, whatever the case.",
            ),
        )
    for declared in filters:
        field, _, operator = declared.partition("__")
        known = response.model_fields.get(field)
        if known is None or operator not in ("", *OPERATORS) or declared in PAGING:
            raise ConfigurationError(
                f"{name}: the filter {declared!r} is not a field of {response.__name__}, "
                f"or its operator is none of {', '.join(OPERATORS)}."
            )
        annotation: Any = known.rebuild_annotation()
        fields[declared] = (Annotated[annotation | None, Field()], None)
    return create_model(f"{name}Query", __base__=ListQuery, **fields)
