# The demo's catalogue as the API sees it: ids, titles and dates, nothing of the hidden clusters but a word to read.
from __future__ import annotations

from commands.world import World

_TOPICS = (
    ("Jazz", "Blues", "Soul", "Folk"),
    ("Running", "Cycling", "Climbing", "Swimming"),
    ("Baking", "Grilling", "Ramen", "Coffee"),
    ("Cats", "Dogs", "Birds", "Horses"),
    ("Pottery", "Knitting", "Woodwork", "Gardens"),
    ("Football", "Tennis", "Darts", "Chess"),
    ("Planets", "Robots", "Physics", "Maps"),
    ("Castles", "Trains", "Islands", "Deserts"),
    ("Horror", "Comedy", "Drama", "Westerns"),
)
_WORDS = tuple(word for topics in _TOPICS for word in topics)


def item_id(item: int) -> str:
    """The id of a world's item."""
    return f"i{item}"


def item_number(name: str) -> int:
    """The world's item of an id; -1 where the id is none of the simulator's."""
    return int(name[1:]) if name[:1] == "i" and name[1:].isdigit() else -1


def title(world: World, item: int) -> str:
    """A title that lets a person see the cluster that models do not know."""
    cluster = int(world.clusters[item, 0])
    return f"{_WORDS[cluster % len(_WORDS)]} {item}"


def item_document(world: World, item: int, start_ms: int) -> dict[str, object]:
    """The item as PUT /v1/items takes it; no categories, because the clusters are hidden."""
    published = start_ms + int(1000 * world.published[item])
    return {"item_id": item_id(item), "timestamp": published, "published_at": published, "title": title(world, item)}
