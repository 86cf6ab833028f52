# One step of the transformer: all that its gradient is computed from, in whatever process, and that gradient.
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.attention import Encoder
from models.optimizer import FlatWeights
from models.softmax_loss import HIDDEN, against_columns

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Step:
    """B histories of L entries whose T newest states have a target each, the R items that occur, and the C of these
    that compete. A streamed example has its target at the newest state; a whole sequence has one at every state.

    Everything random is drawn already: this and the dense weights decide the gradient.
    """

    vectors: NDArray[np.float32]  # [R, d]
    columns: NDArray[np.int64]  # [C] places in `vectors` of the items that compete
    log_chance: NDArray[np.float32]  # [C] log of the chance that each had to be among them
    entries: NDArray[np.int64]  # [B, L] places in `vectors`; any where `known` is not set
    known: NDArray[np.bool_]  # [B, L] has a vector
    present: NDArray[np.bool_]  # [B, L] is no padding
    wanted: NDArray[np.bool_]  # [B, L] has label 1
    signals: NDArray[np.int64]  # [B, L] codes
    in_session: NDArray[np.int64]  # [B, L] 0 or 1
    until: NDArray[np.int64]  # [B, L] its item competes as one of the session in states from it up to this, exclusive
    targets: NDArray[np.int64]  # [B, T] places in `columns`; any where the weight is 0
    signs: NDArray[np.float32]  # [B, T] 1 for a wanted target, -1 for a skipped one
    weights: NDArray[np.float32]  # [B, T] each target's share of the whole batch's
    noise: NDArray[np.float16]  # [B, S, L, d] factors of dropout; S is 0 without


SHARED: Final = {"vectors", "columns", "log_chance"}  # fields that have no row an example
STATES: Final = {key.name for key in fields(Step)} - SHARED - {"noise"}  # that have a column an entry, or a state
MAX_SCORES: Final = 2**22  # of a part of a step, 16 MB


class Gradient(NamedTuple):
    """Of a step's loss; parts of a batch add up to the whole in all three."""

    loss: Tensor  # []
    rows: Tensor  # [R, d] of `Step.vectors`
    dense: Tensor  # [P] of the encoder's weights


Compute: TypeAlias = Callable[[Encoder, FlatWeights, Step], Gradient]


def share(step: Step, rank: int, num_ranks: int) -> Step:
    """The part of a step's examples that falls to a rank: as many for each as can be, in their order, perhaps none."""
    num = len(step.targets)
    rows = slice(num * rank // num_ranks, num * (rank + 1) // num_ranks)
    return replace(step, **{key.name: getattr(step, key.name)[rows] for key in fields(step) if key.name not in SHARED})


def gradient_of(encoder: Encoder, weights: FlatWeights, step: Step) -> Gradient:
    """The gradient of a step, computed where the encoder's weights are; the next call writes over its dense part."""
    device = weights.values.device
    vectors = torch.from_numpy(step.vectors).to(device).requires_grad_()
    vectors.grad, total = torch.zeros_like(vectors), torch.zeros((), device=device)
    weights.gradient.zero_()
    for part in _parts(step):
        loss = _loss(encoder, vectors, part)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return Gradient(total, vectors.grad, weights.gradient)


def _parts(step: Step) -> Iterator[Step]:
    """A step in parts of at most so many scores. Whole sequences come with others of their length, less padding."""
    num_rows = MAX_SCORES // max(len(step.columns), 1)
    if step.targets.size <= num_rows:
        yield step
        return
    length, num_last = step.entries.shape[1], step.targets.shape[1]
    used = step.present.copy()
    used[:, length - num_last :] |= step.weights > 0
    lengths = np.maximum(length - used.argmax(axis=1), 1)
    order, first = np.argsort(-lengths, kind="stable"), 0
    while first < len(order):
        kept = int(lengths[order[first]])
        rows = order[first : first + max(num_rows // min(kept, num_last), 1)]
        yield _newest(step, rows, kept)
        first += len(rows)


def _newest(step: Step, rows: NDArray[np.int64], length: int) -> Step:
    """The newest `length` entries of some examples of a step, and the targets of their states."""
    cut = {key: getattr(step, key)[rows, -length:] for key in STATES}
    cut["until"] = np.maximum(cut["until"] - (step.entries.shape[1] - length), 0)
    return replace(step, **cut, noise=step.noise[rows, :, -length:])


def _loss(encoder: Encoder, vectors: Tensor, step: Step) -> Tensor:
    """[] the loss of a step whose items have these vectors [R, d]."""

    def placed(values: NDArray[_Scalar]) -> Tensor:
        return torch.from_numpy(values).to(vectors.device)

    (num, length), num_last = step.entries.shape, step.targets.shape[1]
    items, columns, targets = placed(step.entries), placed(step.columns), placed(step.targets)
    entries = functional.embedding(items, vectors)
    others = (step.known, step.present, step.wanted, step.signals, step.in_session)
    states = encoder(entries, *map(placed, others), num_last, placed(step.noise))
    at = torch.arange(length, device=vectors.device)
    now, until = at[length - num_last :, None], placed(step.until)[:, None]
    again = (at <= now) & (now < until)  # [B, T, L]
    same = again & (items[:, None] == columns[targets][:, :, None])
    column_of = columns.new_full((len(vectors),), -1)  # by item
    column_of[columns] = torch.arange(len(columns), device=vectors.device)
    hidden = column_of[items][:, None]
    hidden = torch.where(again & (hidden >= 0), hidden, targets[:, :, None])  # a target does not compete anyway
    total, own = against_columns(
        states.flatten(0, 1),
        functional.embedding(columns, vectors),
        placed(step.log_chance),
        targets.flatten(),
        hidden.flatten(0, 1),
    )
    returning = encoder.returning(states, length)
    of_session = torch.einsum("btd,bld->btl", states, entries) + returning
    of_session = of_session.masked_fill(~again | same, HIDDEN).logsumexp(dim=2)
    own = own.view(num, num_last) + (returning * same).sum(dim=2)
    losses = functional.softplus((torch.logaddexp(total.view(num, num_last), of_session) - own) * placed(step.signs))
    return (losses * placed(step.weights)).sum()
