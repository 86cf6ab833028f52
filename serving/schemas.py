# What the HTTP calls take and give, and how a request that does not fit is explained.
from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from serving.problems import Problem

MAX_ITEMS = 1000  # of one slate
Id = Annotated[str, Meta(min_length=1, max_length=256)]
Count = Annotated[int, Meta(ge=1, le=MAX_ITEMS)]
Feature = str | int | float | bool
_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]+)`")
_Body = TypeVar("_Body")


class ItemFilter(Struct):
    """Only items of one of these categories, and with all of these features."""

    categories: list[str] = []
    features: dict[str, Feature] = {}


class RecommendationRequest(Struct):
    """A slate for one user at this moment."""

    user_id: Id
    n: Count = 20
    session: list[Raw] = []  # events not sent yet, as in /v1/events; folded over the record for this answer alone
    candidates: list[Id] | None = None  # rank these and no others
    exclude: list[Id] = []
    filter: ItemFilter = msgspec.field(default_factory=ItemFilter)
    context: dict[str, Raw] = {}
    model: str = ""  # a single model by name; the blend without
    explain: bool = False


class SlateItem(Struct, omit_defaults=True):
    """One item of a slate, best first."""

    item_id: str
    score: float | None  # null where the model gave no finite number
    source: str  # what proposed the item
    propensity: float  # chance that this place was given to this item, the places before it being as they are
    reason: dict[str, float] | UnsetType = UNSET  # with `explain`: the parts that the score is the sum of


class SlateReply(Struct):
    """A slate; the same `model_version` and `session_offset` give the same items."""

    request_id: str
    model_version: int
    model_age_ms: int | None  # since the newest event the version has learned; null before the first
    session_offset: int  # of the log: everything before it is in the user's record
    session_offsets: dict[str, int]  # the same by partition; `session_offset` is their sum
    items: list[SlateItem]


class SimilarItemsRequest(Struct):
    """Items like this one."""

    item_id: Id
    n: Count = 20


class SimilarItemsReply(Struct):
    """Items most alike first."""

    item_id: str
    model_version: int
    items: list[SlateItem]


class SignalEventSchema(Struct):
    """A user did something with an item. The other types of event stand in the README."""

    type: str
    user_id: Id
    item_id: Id
    timestamp: int | str  # milliseconds, or RFC 3339 with offset
    event_id: str | None = None
    dwell_ms: int | None = None
    duration_ms: int | None = None
    session_id: str | None = None
    request_id: str | None = None
    position: int | None = None
    value: float = 1.0
    context: dict[str, Raw] | None = None


class EventsRequest(Struct):
    """Several events in one call; one bare event is taken too."""

    events: list[SignalEventSchema]


class ItemSchema(Struct):
    """What is known of an item; the newest timestamp wins."""

    item_id: Id
    timestamp: int | str | UnsetType = UNSET  # now, where it is missing
    title: str = ""
    categories: list[str] = []
    tags: list[str] = []
    published_at: int | str | None = None
    duration_ms: int | None = None
    available: bool = True
    features: dict[str, Feature] = {}
    embedding: list[float] | None = None


class ItemsRequest(Struct):
    """Items to put into the catalogue."""

    items: list[ItemSchema]


class EventResult(Struct, omit_defaults=True):
    """What became of one event, in the order they were sent."""

    status: str  # accepted, duplicate or rejected
    event_id: str | UnsetType | None = UNSET
    item_id: str | UnsetType = UNSET
    field: str | UnsetType = UNSET  # of a rejected event: the field that broke a rule
    reason: str | UnsetType = UNSET


class EventsReply(Struct):
    """`offsets`, by partition: the events are in the user's record where `session_offsets` have reached them. Where the
    log has one partition `offset` is that one's, to compare with `session_offset`."""

    accepted: int
    results: list[EventResult]
    offsets: dict[str, int]
    offset: int | UnsetType = UNSET


class OffsetReply(Struct):
    """`offsets`: done where /v1/model's `folded_offsets` have reached them; `offset` where there is one partition."""

    offsets: dict[str, int]
    offset: int | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    item_id: str | UnsetType = UNSET


class ItemReply(Struct, omit_defaults=True):
    """What is known of an item; only `item_id` where it is known from events alone."""

    item_id: str
    timestamp: int | UnsetType = UNSET
    title: str = ""
    categories: list[str] = []
    tags: list[str] = []
    published_at: int = 0
    duration_ms: int = 0
    available: bool | UnsetType = UNSET
    features: dict[str, Feature] = {}
    embedding: list[float] = []


class SequenceEntry(Struct, omit_defaults=True):
    """One event of a user's sequence."""

    item_id: str
    type: str
    timestamp: int
    dwell_ms: int | UnsetType = UNSET
    duration_ms: int | UnsetType = UNSET
    position: int | UnsetType = UNSET
    value: float | UnsetType = UNSET


class UserReply(Struct):
    """A user's record, newest first."""

    user_id: str
    sequence: list[SequenceEntry]
    disliked: list[str]
    session_offset: int


class Readiness(Struct):
    """`degraded`: lists come from the last version and the newest records, while a stage of the home does not run."""

    status: str  # ready or degraded
    model_version: int
    stages: dict[str, str]  # running, waiting or dead


class ModelStanding(Struct):
    """One model of the version. `held` is there while it learns nothing, and says why."""

    num_items: int
    held: str | UnsetType = UNSET


class ModelReply(Struct):
    """Which version answers and what it has learned."""

    model_version: int
    model_age_ms: int | None
    event_time: int | None
    folded_offsets: dict[str, int]
    learned_offsets: dict[str, int]
    events_total: int
    models: dict[str, ModelStanding]


def decode_body(body: bytes, kind: type[_Body]) -> _Body:
    """The body as `kind`. Raises Problem: 400 where it is not JSON, 422 naming the field that does not fit."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error


def _invalid(text: str) -> Problem:
    place = _PLACE.search(text)
    field = place.group(1) if place else ""
    reason = text[: place.start()] if place else text
    if missing := _MISSING.search(reason):
        field, reason = ".".join(filter(None, (field, missing.group(1)))), "missing"
    return Problem(422, f"{field or 'the body'}: {reason}", field)
