# Which candidates may be shown: the catalogue's columns looked up for them, before anything is ranked.
from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from models.base import Model
from serving.moment import Moment
from serving.schemas import ItemFilter
from serving.steps.sources import number_of, widen
from state.home import Home


class Filter:
    """Drops what may not be shown.

    Unavailable, deleted and unknown items, the user's dislikes, what was just skipped, `exclude` and what `filter`
    does not match never return. Where fewer than n unseen candidates are left, the whole catalogue is looked through;
    where that has fewer, seen items return, oldest first, and are ranked behind the unseen. With `is_open` an item is
    known from its first event, otherwise from its upsert.
    """

    name = "filters"

    def __init__(self, is_open: bool) -> None:
        self._is_open = is_open

    def __call__(self, moment: Moment) -> None:
        assert moment.record is not None
        num_items = moment.home.num_items
        never = _marks(self._forbidden(moment), num_items)
        seen = _within(moment.record.seen_items(), num_items)  # oldest first
        was_seen = _marks(seen, num_items)
        self._keep_allowed(moment, never)
        num_unseen = len(moment.candidates) - int(np.count_nonzero(was_seen[moment.candidates]))
        if moment.request.candidates is None and num_unseen < moment.request.n:
            widen(moment)
            self._keep_allowed(moment, never)
            moment.keep(np.argsort(moment.home.catalogue.order[moment.candidates]))  # by number until here
            num_unseen = len(moment.candidates) - int(np.count_nonzero(was_seen[moment.candidates]))
        is_shown = ~was_seen
        if num_unseen < moment.request.n:
            is_candidate = _marks(moment.candidates, num_items)
            is_shown[seen[is_candidate[seen]][: moment.request.n - num_unseen]] = True
        moment.keep(is_shown[moment.candidates])
        moment.is_seen = was_seen[moment.candidates]

    def _forbidden(self, moment: Moment) -> NDArray[np.int64]:
        """What this user and this request never get."""
        assert moment.record is not None
        excluded = map(number_of(moment.home), moment.request.exclude)
        return _within(chain(moment.record.disliked(), moment.just_skipped, excluded), moment.home.num_items)

    def _keep_allowed(self, moment: Moment, never: NDArray[np.bool_]) -> None:
        """What the rules that are never relaxed let through, looked up for the candidates alone."""
        catalogue, items, wanted = moment.home.catalogue, moment.candidates, moment.request.filter
        is_known = catalogue.upserted[items]
        if self._is_open:
            is_known = is_known | (catalogue.first_seen[items] > 0)
        moment.keep(catalogue.available[items] & is_known & ~never[items])
        if wanted.categories or wanted.features:
            moment.keep(_matches(moment.home, moment.candidates, wanted))


def _matches(home: Home[Model], items: NDArray[np.int64], wanted: ItemFilter) -> NDArray[np.bool_]:
    """[M] in one of the categories, and with all of the features."""
    catalogue = home.catalogue
    codes = {catalogue.category_codes.get(name, -1) for name in wanted.categories}
    features = wanted.features.items()
    found = (
        (not codes or not codes.isdisjoint(catalogue.categories[item])) and features <= catalogue.features[item].items()
        for item in items.tolist()
    )
    return np.fromiter(found, np.bool_, len(items))


def _marks(items: NDArray[np.int64], num_items: int) -> NDArray[np.bool_]:
    """[num_items] True at these items."""
    marks = np.zeros(num_items, np.bool_)
    marks[items] = True
    return marks


def _within(numbers: Iterable[int], num_items: int) -> NDArray[np.int64]:
    """The numbers that the home knows: a record may be newer than the home's dictionary."""
    found = np.fromiter(numbers, np.int64)
    return found[(found >= 0) & (found < num_items)]
