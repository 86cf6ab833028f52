# What survives a crash: LMDB stores, the user record and its fold, tables, deltas and how they are followed.
from __future__ import annotations
