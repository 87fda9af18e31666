"""What an operation is called with, and the lists that most kinds answer alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stripe_simulator.collection import Collection, PageQuery
from stripe_simulator.contract import Json


@dataclass(frozen=True)
class Call:
    """One call of an operation: ids from the path, checked parameters, and whether a publishable key made it."""

    path: dict[str, str]
    params: Json
    publishable: bool = False


def listing(
    collection: Collection,
    call: Call,
    url: str,
    *,
    filters: Sequence[str] = (),
    keep: Callable[[Json], bool] | None = None,
) -> Json:
    """A page of a collection narrowed by those of `filters` (indexed fields) that were given."""
    given = [field for field in filters if field in call.params]
    where = (given[0], (call.params[given[0]],)) if given else None

    def keeps(item: Json) -> bool:
        return all(item.get(field) == call.params[field] for field in given[1:]) and (keep is None or keep(item))

    page, has_more = collection.page(PageQuery.of(call.params), where=where, keep=keeps)
    return {"object": "list", "data": page, "has_more": has_more, "url": url}
