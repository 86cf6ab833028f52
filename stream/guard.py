# The guard of learning: what a model learned is looked at before it is committed, and one that is not finite is held.
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.base import Model
from models.tables import RowTable
from state.delta import ModelDelta
from state.meta import get_held, put_held
from state.store import Store
from stream.amend import Reopen, amend


class ModelHeld(Reopen):
    """Models learned what is not finite: nothing of the step was committed, and they are held from now on.

    The hold is in the store. Once stage and models are opened anew, a held model is as its last good version left it,
    and the others learn the same step again without it.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"model {name} is held: {reason}" for name, reason in reasons.items()))
        self.reasons = dict(reasons)


def unfit(name: str, model: Model, changes: ModelDelta) -> str | None:
    """Why a model may not be committed, None where it may: a number it would save or serve is not finite.

    `changes` is what is to be saved of it: its touched rows alone are looked at, so the cost follows the step.
    """
    for table_name, rows in changes.rows.items():
        table = model.tables[table_name]
        assert isinstance(table, RowTable)
        for what, values in (("rows", table.values[rows.numbers]), ("optimiser state", table.slots[rows.numbers])):
            if bad := _num_bad_rows(values):
                return f"{bad} {what} of {name}/{table_name} not finite"
    for table_name, by_user in changes.user_rows.items():
        if bad := _num_bad_rows(by_user.data):
            return f"{bad} rows by user of {name}/{table_name} not finite"
    for table_name, cells in changes.cells.items():
        if bad := int(np.count_nonzero(~np.isfinite(cells.counts))):  # as float32: what is beyond it is not served
            return f"{bad} cells of {name}/{table_name} not finite"
    for key, weights in [*changes.dense.items(), *_floats(model.training_state())]:
        if not _is_finite(weights):
            return f"{key} of {name} not finite"
    return None


def unfit_losses(losses: Iterable[float]) -> str | None:
    """Why the losses of a gradient model's batches in one step tell that it cannot learn, None where they do not: every
    update was refused. NaN: there was nothing to learn from."""
    found = [loss for loss in losses if not math.isnan(loss)]
    return f"no finite gradient in {len(found)} batches" if found and all(map(math.isinf, found)) else None


def guard(
    models: Mapping[str, Model], changes: Mapping[str, ModelDelta], losses: Mapping[str, list[float]], version: int
) -> None:
    """Raise ModelHeld, naming the version that is the last good one, where what models learned is not finite.

    `losses` are of those that learn, batch by batch.
    """
    reasons = {name: unfit(name, models[name], changes[name]) for name in losses}
    for name, found in losses.items():
        if models[name].replays and reasons[name] is None:  # what mixes others may refuse for their sake
            reasons[name] = unfit_losses(found)
    if bad := {name: f"{why}, at version {version}" for name, why in reasons.items() if why is not None}:
        raise ModelHeld(bad)


def hold(store: Store, reasons: Mapping[str, str], now: int) -> int:
    """Hold models beside those that are held, in a commit of its own that changes nothing else; its version."""
    return amend(store, now, lambda txn, _: put_held(txn, store, {**get_held(txn, store), **reasons}))


def release(store: Store, names: Sequence[str], now: int) -> int:
    """Let held models learn again, from the version they were held at; the version of the commit.

    Raises ValueError, naming those that are held, where one is not.
    """
    with store.read() as txn:
        held = get_held(txn, store)
    for name in names:
        if name not in held:
            raise ValueError(f"model {name!r} is not held; held are {', '.join(sorted(held)) or 'none'}")
    left = {name: reason for name, reason in held.items() if name not in names}
    return amend(store, now, lambda txn, _: put_held(txn, store, left))


def _num_bad_rows(values: NDArray[np.floating]) -> int:
    return 0 if _is_finite(values) else int(np.count_nonzero(~np.isfinite(values).all(axis=1)))


def _is_finite(values: NDArray[np.generic]) -> bool:
    return bool(np.isfinite(values).all())


def _floats(arrays: Mapping[str, NDArray[np.generic]]) -> list[tuple[str, NDArray[np.generic]]]:
    return [(key, array) for key, array in arrays.items() if array.dtype.kind == "f"]
