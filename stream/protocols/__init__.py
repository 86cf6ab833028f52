# Published protocols: how each reads its data, trains models by batches, ranks and counts.
from __future__ import annotations
