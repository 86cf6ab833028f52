# Every published protocol by its name on the command line.
from __future__ import annotations

from typing import Final

from stream.protocols.ader import ADER, ADER_UPDATED
from stream.protocols.forgetting import FORGETTING
from stream.protocols.kuairand_auc import KUAIRAND_AUC
from stream.protocols.loo_full import LOO_FULL, LOO_FULL_LIKED, LOO_FULL_VALIDATION
from stream.protocols.preq_5star import PREQ_5STAR
from stream.protocols.protocol import Protocol
from stream.protocols.sampled import CN_99, NCF_99

PROTOCOLS: Final[dict[str, Protocol]] = {
    "cn-99": CN_99,
    "ncf-99": NCF_99,
    "preq-5star": PREQ_5STAR,
    "forgetting": FORGETTING,
    "kuairand-auc": KUAIRAND_AUC,
    "loo-full": LOO_FULL,
    "loo-full-liked": LOO_FULL_LIKED,
    "loo-full-validation": LOO_FULL_VALIDATION,
    "ader": ADER,
    "ader-updated": ADER_UPDATED,
}
