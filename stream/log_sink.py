# The sink of the embedded log.
from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Mapping

from stream.log import PARTITION, EventLog
from stream.log_writer import LogWriterSettings
from stream.process_sink import ProcessSink
from stream.sink import SinkConfig
from stream.writer import start_writer


class LogSink(ProcessSink):
    """Group commit into the embedded log. Values of a call follow each other there, all of them or none."""

    def __init__(
        self,
        log: EventLog,
        clock: Callable[[], int],
        config: SinkConfig | None = None,
        on_lost: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._event_log = log
        super().__init__(clock, config, on_lost)

    def start_writer(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """`stream.log_writer`, for this log."""
        log = self._event_log
        return start_writer("stream.log_writer", LogWriterSettings(str(log.path.resolve()), log.config, self.grouping))

    def num_behind(self, folded: Mapping[str, int]) -> int:
        """Values in the log after what was folded."""
        return self._event_log.end_offset() - folded.get(PARTITION, 0)
