# Logs: one JSON object a line, alike in every process; what repeats is counted, not repeated.
from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

_ORDINARY = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}  # what every record has
_LIMIT_BYTES = 10_000_000
_log = logging.getLogger("runnel")


class JsonLines(logging.Formatter):
    """`at` (UTC), `level`, `process`, `logger`, `message`, what `extra` named, `repeated` and `error`, a traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"at": at, "level": record.levelname.lower(), "process": self._process}
        line |= {"logger": record.name, "message": record.getMessage()}
        line |= {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Repeats(logging.Filter):
    """Lets a message pass once in `interval_seconds`, with the number of those in between as `repeated`.

    Messages are the same when logger, level and format string are; what is formatted into them may differ.
    """

    def __init__(self, interval_seconds: float = 10.0, max_messages: int = 1000) -> None:
        super().__init__()
        self._interval_seconds, self._max_messages = interval_seconds, max_messages
        self._passed: dict[tuple[str, int, str], tuple[float, int]] = {}  # message → (when, how many since)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is told."""
        key = (record.name, record.levelno, str(record.msg))
        passed_at, num_since = self._passed.get(key, (float("-inf"), 0))
        if record.created - passed_at < self._interval_seconds:
            self._passed[key] = (passed_at, num_since + 1)
            return False
        if num_since:
            record.repeated = num_since
        if len(self._passed) >= self._max_messages:
            self._passed.clear()
        self._passed[key] = (record.created, 0)
        return True


def set_up_logs(process: str, path: Path | None = None) -> None:
    """Log to stderr, or to a file that is appended to and put aside as PATH.1 when it has grown large.

    What ends the process or one of its threads is logged too. Call it once, where the process begins.
    """
    handler = logging.StreamHandler() if path is None else logging.FileHandler(_roomy(path))
    handler.setFormatter(JsonLines(process))
    handler.addFilter(Repeats())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel(logging.WARNING)  # it tells of each client it makes
    logging.captureWarnings(True)
    sys.excepthook = _tell_end
    on_thread_end(lambda: None)


def on_thread_end(then: Callable[[], object]) -> None:
    """Do this, after it is logged, when an error ends a thread."""

    def tell(ended: threading.ExceptHookArgs) -> None:
        name = ended.thread.name if ended.thread else "?"
        if ended.exc_value is not None:
            error = (ended.exc_type, ended.exc_value, ended.exc_traceback)
            _log.critical("the thread %s has ended by an error", name, exc_info=error)
        then()

    threading.excepthook = tell


def _tell_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.critical("ended by %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _roomy(path: Path) -> Path:
    if path.exists() and path.stat().st_size > _LIMIT_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return path
