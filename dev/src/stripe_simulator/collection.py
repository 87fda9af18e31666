"""Objects of one kind, found by id and listed by page without walking through all of them."""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest


@dataclass(frozen=True)
class PageQuery:
    """Which part of a list is requested; `created` is a second, or bounds by `gt`, `gte`, `lt`, `lte`."""

    limit: int = 10
    starting_after: str | None = None
    ending_before: str | None = None
    created: int | dict[str, int] | None = None

    @staticmethod
    def of(params: Json) -> "PageQuery":
        return PageQuery(
            params.get("limit", 10), params.get("starting_after"), params.get("ending_before"), params.get("created")
        )


class Collection:
    """Objects in the order they were made. Each has a position; indexes are sorted lists of positions."""

    def __init__(self, kind: str, indexed: Sequence[str] = ()) -> None:
        self.kind = kind
        self._by_id: dict[str, Json] = {}
        self._position: dict[str, int] = {}
        self._at: list[Json] = []
        self._created: list[int] = []
        self._listed: list[int] = []
        self._index: dict[str, dict[str, list[int]]] = {field: {} for field in indexed}

    def __len__(self) -> int:
        return len(self._listed)

    def __iter__(self) -> Iterator[Json]:
        """Oldest first, without those taken from the list."""
        return (self._at[position] for position in self._listed)

    def add(self, item: Json) -> Json:
        position = len(self._at)
        self._by_id[item["id"]] = item
        self._position[item["id"]] = position
        self._at.append(item)
        self._created.append(item["created"])
        self._listed.append(position)
        for field in self._index:
            self.add_to_index(item, field, item.get(field))
        return item

    def get(self, item_id: str) -> Json | None:
        return self._by_id.get(item_id)

    def unlist(self, item: Json) -> None:
        """Remove the object from lists; it can still be retrieved by its id."""
        position = self._position[item["id"]]
        _discard(self._listed, position)
        for field in self._index:
            self.remove_from_index(item, field, item.get(field))

    def add_to_index(self, item: Json, field: str, value: str | None) -> None:
        if value is not None:
            insort(self._index[field].setdefault(value, []), self._position[item["id"]])

    def remove_from_index(self, item: Json, field: str, value: str | None) -> None:
        if value is not None:
            _discard(self._index[field].get(value, []), self._position[item["id"]])

    def change_indexed(self, item: Json, field: str, value: str | None) -> None:
        """Set an indexed field."""
        self.remove_from_index(item, field, item.get(field))
        item[field] = value
        self.add_to_index(item, field, value)

    def having(self, field: str, value: str) -> list[Json]:
        """Every object with that value in an indexed field, oldest first."""
        return [self._at[position] for position in self._index[field].get(value, [])]

    def page(
        self,
        query: PageQuery,
        *,
        where: tuple[str, Sequence[str]] | None = None,
        keep: Callable[[Json], bool] | None = None,
    ) -> tuple[list[Json], bool]:
        """One page, newest first, and whether more follow in the direction asked for.

        `where` narrows by an indexed field to any of some values; `keep` by what no index knows.
        """
        if not 1 <= query.limit <= 100:
            edge = "greater than or equal to 1" if query.limit < 1 else "less than or equal to 100"
            raise InvalidRequest(
                f"This value must be {edge} (it currently is '{query.limit}').",
                code="parameter_invalid_integer",
                param="limit",
            )
        low, high = self._bounds(query)
        sources = [self._listed]
        if where is not None:
            field, values = where
            sources = [self._index[field].get(value, []) for value in values]
        backwards = query.ending_before is None
        found: list[Json] = []
        for position in _walk(sources, low, high, backwards=backwards):
            item = self._at[position]
            if keep is None or keep(item):
                found.append(item)
                if len(found) > query.limit:
                    break
        page = found[: query.limit]
        return (page if backwards else page[::-1]), len(found) > query.limit

    def _bounds(self, query: PageQuery) -> tuple[int, int]:
        """The half-open range of positions that the cursors and `created` leave."""
        low, high = 0, len(self._at)
        created = query.created
        if isinstance(created, int):
            created = {"gte": created, "lte": created}
        for bound, second in (created or {}).items():
            match bound:
                case "gt":
                    low = max(low, bisect_right(self._created, second))
                case "gte":
                    low = max(low, bisect_left(self._created, second))
                case "lt":
                    high = min(high, bisect_left(self._created, second))
                case _:
                    high = min(high, bisect_right(self._created, second))
        if query.starting_after is not None and query.ending_before is not None:
            raise InvalidRequest(
                "You cannot parameterize a list with both starting_after and ending_before.", param="starting_after"
            )
        if query.starting_after is not None:
            high = min(high, self._cursor(query.starting_after, "starting_after"))
        if query.ending_before is not None:
            low = max(low, self._cursor(query.ending_before, "ending_before") + 1)
        return low, high

    def _cursor(self, item_id: str, param: str) -> int:
        if item_id not in self._position:
            raise InvalidRequest(f"No such {self.kind}: '{item_id}'", code="resource_missing", param=param)
        return self._position[item_id]


def _walk(sources: Sequence[list[int]], low: int, high: int, *, backwards: bool) -> Iterator[int]:
    def walk_one(positions: list[int]) -> Iterator[int]:
        first, last = bisect_left(positions, low), bisect_left(positions, high)
        steps = range(last - 1, first - 1, -1) if backwards else range(first, last)
        return (positions[step] for step in steps)

    return heapq.merge(*(walk_one(positions) for positions in sources), reverse=backwards)


def _discard(positions: list[int], position: int) -> None:
    at = bisect_left(positions, position)
    if at < len(positions) and positions[at] == position:
        del positions[at]
