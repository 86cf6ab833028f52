# One short name for what figures were measured with, printed by every table of quality or speed.
from __future__ import annotations

import json
from dataclasses import asdict

import xxhash

from models.configured import configs_of
from models.registry import MODELS, build_models
from stream.learn import LearnConfig


def fingerprint() -> str:
    """Eight hex digits of the defaults of every model and of the learn stage, which one changed default changes.

    What a protocol or a benchmark sets otherwise stands in its own file, which a commit names.
    """
    models = configs_of(build_models(MODELS))
    return xxhash.xxh32_hexdigest(json.dumps([models, asdict(LearnConfig())], sort_keys=True).encode())
