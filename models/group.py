# The learn group: ranks of torchrun that compute the gradients of one learner together.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from typing import Any, Final

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from models.attention import Encoder
from models.base import Model
from models.optimizer import FlatWeights
from models.step import Gradient, Step, gradient_of, share
from models.transformer import Transformer

JOIN_PATIENCE: Final = timedelta(seconds=60)  # until all ranks are there: they import for seconds
PATIENCE: Final = timedelta(seconds=10)  # of rank 0 with the others, which have milliseconds of work
IDLE_PATIENCE: Final = timedelta(days=20)  # of the others with rank 0, which may have no work for days; gloo takes 24


class RankLost(Exception):  # noqa: N818  named for what happened
    """Another rank of the group has ended, or does not answer: this one ends too, and torchrun starts all anew."""


class _Array(msgspec.Struct, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Work(msgspec.Struct, array_like=True):
    """What rank 0 sends: the shape of an encoder, its weights, and the fields of a step in their order."""

    encoder: tuple[int, ...]
    weights: _Array
    step: list[_Array]


class Group:
    """Rank 0 learns, with all models in its memory; the others hold nothing that outlives a step. In lockstep:

    1. Rank 0 sends a step to all: its examples, what was drawn for them, and the weights that it reads (the rows of
       its items, all dense ones).
    2. Each rank computes the gradient of its share of the examples.
    3. The shares' gradients are added up at rank 0, which alone updates its weights, and commits them when it does.

    So there are no replicas that could come apart: what happens between steps (items that expire, models that are
    held, rebuilt or loaded anew) is rank 0's affair, and a group begins with nothing to hand over. What travels is
    what replicas would exchange: weights and gradients of the rows touched and of the dense part.

    All shares have the same negatives and one normaliser, so k ranks compute the loss and the gradient that one does;
    float sums alone are added in another order. One rank computes the same bits as no group.

    Steps travel by gloo; gradients too, or by nccl between GPUs. A rank that ends is noticed by its closed connection,
    one that hangs by rank 0's patience.
    """

    def __init__(self, store: Store, rank: int, size: int, device: torch.device) -> None:
        """Join the ranks that meet in a store which no others have met in; gradients are computed on `device`."""
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, None, JOIN_PATIENCE, size, rank, store)
        self.rank, self.size, self.device = rank, size, device
        self._ranks = dist.new_group(timeout=IDLE_PATIENCE if self.rank else PATIENCE)
        self._encoders: dict[tuple[int, ...], tuple[Encoder, FlatWeights]] = {}

    def lead(self, models: Mapping[str, Model]) -> None:
        """Have the gradients of these models computed by the group. Of rank 0."""
        for model in models.values():
            if isinstance(model, Transformer):
                model.compute = self._compute

    def help(self) -> None:
        """Compute shares until rank 0 stops. Of the other ranks; raises RankLost where rank 0 ends otherwise."""
        while data := self._receive():
            work = msgspec.msgpack.decode(data, type=_Work)
            self._summed(work.encoder, _unpacked(work.weights), Step(*map(_unpacked, work.step)))
        dist.destroy_process_group()

    def stop(self) -> None:
        """Let the other ranks go. Of rank 0."""
        self._send(b"")
        dist.destroy_process_group()

    def _compute(self, encoder: Encoder, weights: FlatWeights, step: Step) -> Gradient:
        values = weights.values.numpy()
        if self.size > 1:
            arrays = [_packed(getattr(step, key.name)) for key in fields(step)]
            self._send(msgspec.msgpack.encode(_Work(encoder.shape, _packed(values), arrays)))
        total = self._summed(encoder.shape, values, step).cpu()
        rows, dense = total[1 : -len(values)], total[-len(values) :]
        return Gradient(total[0], rows.view(step.vectors.shape), dense)

    def _summed(self, shape: tuple[int, ...], values: NDArray[np.float32], step: Step) -> Tensor:
        """[1 + R * d + P] loss and gradient of the whole step at rank 0, and nothing of use elsewhere."""
        if shape not in self._encoders:
            encoder = Encoder(*shape).to(self.device)
            self._encoders[shape] = encoder, FlatWeights(encoder)
        encoder, weights = self._encoders[shape]
        weights.values.copy_(torch.from_numpy(values))
        own = gradient_of(encoder, weights, share(step, self.rank, self.size))
        total = torch.cat([own.loss.view(1), own.rows.view(-1), own.dense])
        with self._lockstep():
            dist.reduce(total, 0, group=self._ranks)
        return total

    def _send(self, data: bytes) -> None:
        with self._lockstep():
            dist.broadcast(torch.tensor([len(data)]), 0, group=self._ranks)
            if data:
                dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, group=self._ranks)

    def _receive(self) -> memoryview:
        with self._lockstep():
            size = torch.zeros(1, dtype=torch.int64)
            dist.broadcast(size, 0, group=self._ranks)
            data = torch.empty(int(size), dtype=torch.uint8)
            if len(data):
                dist.broadcast(data, 0, group=self._ranks)
        return data.numpy().data

    @contextmanager
    def _lockstep(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankLost(f"rank {self.rank} of {self.size} has lost another one: {error}") from error


def _packed(array: NDArray[np.generic]) -> _Array:
    return _Array(array.dtype.str, array.shape, array.tobytes())


def _unpacked(packed: _Array) -> NDArray[Any]:
    return np.frombuffer(packed.data, packed.dtype).reshape(packed.shape).copy()  # copied: torch wants to write
