# Every model by name, and how a blend is wired to the models it mixes.
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np

from models.ai2v import AI2V, AI2VConfig
from models.base import Model
from models.blend import Blend, BlendConfig, BlendParts
from models.conet import CoNet, CoNetConfig
from models.configured import Configs, WrongConfiguration, configured
from models.covisitation import Covisitation, CovisitationConfig
from models.item2vec import Item2Vec, Item2VecConfig
from models.popularity import Popularity, PopularityConfig
from models.transformer import Transformer, TransformerConfig

Build = Callable[[np.random.Generator, Mapping[str, Model], Mapping[str, object]], Model]

MODELS: Final[dict[str, Build]] = {
    "blend": lambda _rng, parts, keys: _blend(parts, _blend_config(keys)),
    "popularity": lambda _rng, _parts, keys: _popularity("popularity", math.inf, keys),
    "recent": lambda _rng, _parts, keys: _popularity("recent", 3600.0, keys),
    "trending": lambda _rng, _parts, keys: _popularity("trending", 600.0, keys),
    "covisitation": lambda _rng, _parts, keys: Covisitation(configured("covisitation", CovisitationConfig(), keys)),
    "item2vec": lambda rng, _parts, keys: Item2Vec(rng, configured("item2vec", Item2VecConfig(), keys)),
    "ai2v": lambda rng, _parts, keys: AI2V(rng, configured("ai2v", AI2VConfig(), keys)),
    "conet": lambda rng, _parts, keys: CoNet(rng, configured("conet", CoNetConfig(), keys)),
    "transformer": lambda rng, _parts, keys: Transformer(rng, configured("transformer", TransformerConfig(), keys)),
}
_BLENDED: Final = ("popularity", "recent", "trending", "covisitation", "transformer")  # what every blend mixes


def build_models(names: Iterable[str], seed: int = 0, configs: Configs | None = None) -> dict[str, Model]:
    """Fresh models by name, and those they mix, in the order in which they must learn: a blend before its parts.

    Each has a generator of its own, so that choosing more models changes none of them. `configs` says what differs
    from the models' defaults; ValueError names what is wrong in it.
    """
    wanted = set(names)
    for name in sorted(wanted | (configs or {}).keys()):
        if name not in MODELS:
            raise ValueError(f"unknown model {name!r}; the models are {', '.join(sorted(MODELS))}")
    wanted |= {part for name in wanted for part in parts_of(name, (configs or {}).get(name, {}))}
    built: dict[str, Model] = {}
    for name in sorted(wanted, key=lambda name: name == "blend"):
        built[name] = build_model(name, seed, built, configs)
    return {name: built[name] for name in MODELS if name in built}


def parts_of(name: str, keys: Mapping[str, object]) -> tuple[str, ...]:
    """The models that one with this configuration mixes: none but for a blend."""
    return (*_BLENDED, *_blend_config(keys).others) if name == "blend" else ()


def build_model(name: str, seed: int, parts: Mapping[str, Model], configs: Configs | None = None) -> Model:
    """One fresh model, as `build_models` builds it; a mixture mixes `parts`."""
    generator = np.random.default_rng([seed, *name.encode()])
    return MODELS[name](generator, parts, (configs or {}).get(name, {}))


def _popularity(name: str, half_life_seconds: float, keys: Mapping[str, object]) -> Popularity:
    return Popularity(configured(name, PopularityConfig(half_life_seconds), keys), name)


def _blend_config(keys: Mapping[str, object]) -> BlendConfig:
    config = configured("blend", BlendConfig(), keys)
    for name in config.others:
        if name not in MODELS or name in (*_BLENDED, "blend"):
            raise WrongConfiguration(f"model 'blend': others: {name!r} is none that it can mix beside its own parts")
    return config


def _blend(built: Mapping[str, Model], config: BlendConfig) -> Blend:
    own = {name: built[name] for name in _BLENDED}
    return Blend(BlendParts(**own, others=tuple(built[name] for name in config.others)), config)  # type: ignore[arg-type]
