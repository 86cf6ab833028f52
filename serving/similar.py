# Items like one item: near vectors and common sessions, joined.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.base import Model
from models.candidates import top
from models.covisitation import Covisitation
from models.rank import sunk
from serving.problems import Problem
from serving.schemas import SimilarItemsReply, SimilarItemsRequest, SlateItem
from serving.steps.selectors import item_vectors, unit_vectors
from serving.steps.sources import number_of
from state.home import Home


def similar_items(home: Home[Model], request: SimilarItemsRequest) -> SimilarItemsReply:
    """The n available items most like the request's. Raises Problem 404 for an item nobody has sent.

    An item's score is the cosine of its vector with the item's, plus the share it has of the largest co-visitation
    count; where neither says anything, the newest items of the item's categories, then the newest of all, fill up.
    """
    number = number_of(home)(request.item_id)
    if number < 0 or home.dictionary is None:
        raise Problem(404, f"item_id: no item {request.item_id!r} is known", "item_id")
    by_vector, by_session = _cosines(home, number), _session_shares(home, number)
    scores = sunk(by_vector + by_session)
    scores[number] = 0
    scores[~home.catalogue.available[: home.num_items]] = 0
    chosen = top(scores, request.n, home.catalogue.order)
    chosen = chosen[scores[chosen] > 0]
    items = [
        SlateItem(
            home.dictionary.name(item),
            float(scores[item]),
            "covisitation" if by_session[item] > by_vector[item] else "transformer",
            1.0,
        )
        for item in chosen.tolist()
    ]
    taken = {number, *chosen.tolist()}
    for item in home.catalogue.newest(request.n + len(taken)).tolist():
        if len(items) < request.n and item not in taken and home.catalogue.available[item]:
            items.append(SlateItem(home.dictionary.name(item), None, "newest", 1.0))
    return SimilarItemsReply(request.item_id, home.version, items)


def _cosines(home: Home[Model], number: int) -> NDArray[np.float32]:
    """[num_items] 0 where there is no vector."""
    cosines = np.zeros(home.num_items, np.float32)
    vectors, own = item_vectors(home), unit_vectors(home, np.array([number]))
    if vectors is not None and own is not None:
        vectors = vectors[: home.num_items]
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        cosines[: len(vectors)] = vectors @ own[0] / np.maximum(lengths, np.float32(1e-12))
    return cosines


def _session_shares(home: Home[Model], number: int) -> NDArray[np.float32]:
    """[num_items] between 0 and 1."""
    shares = np.zeros(home.num_items, np.float32)
    for model in home.models.values():
        if isinstance(model, Covisitation):
            columns, counts = model.cells.cells(number)
            known = columns < len(shares)
            if len(columns):
                shares[columns[known]] = counts[known] / counts.max()
    return shares
