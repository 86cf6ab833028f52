# The steps of the request path, in the order of their files: history, sources, filters, scorers, selectors, replies.
from __future__ import annotations
