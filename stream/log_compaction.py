# Compaction of the event log, while others append to it: no event is lost, and appenders wait for a moment at the end.
from __future__ import annotations

import lmdb

from state import generation
from state.store_errors import explained, naming
from stream.log import EventLog, EventLogConfig, LogFiles, open_files


def compact_log(log: EventLog, config: EventLogConfig | None = None) -> tuple[int, int]:
    """Give the disk back what the log no longer uses; the size of its file before and after, in bytes.

    In this order, so that the log is the old or the new one whenever the process ends:

    1. Copy it while others append, and have the copy on disk.
    2. Take over what was appended meanwhile.
    3. Hold the log's own write lock: appenders wait.
    4. Take over the rest,
    5. and make the copy the log, in one rename. Whoever gets the write lock after this looks for the new files.

    One at a time. Raises StoreUnwritable naming the path.
    """
    path, old = log.path, log.files()
    before = (path / old.generation / "data.mdb").stat().st_size
    with naming(path):
        folder = generation.next_folder(path)
        try:
            # 1. Copy.
            old.env.copy(str(folder), compact=True)
            generation.sync(folder / "data.mdb")
            new = open_files(path, folder.name, config or EventLogConfig())
            try:
                # 2. Take over.
                with old.env.begin() as txn:
                    _take_over(txn, old, new)
                # 3. Hold.
                with old.env.begin(write=True) as txn:
                    # 4. The rest.
                    _take_over(txn, old, new)
                    # 5. Switch.
                    generation.switch(path, folder)
            finally:
                new.env.close()
        except lmdb.Error as error:
            raise explained(path, error, "compacted") from error
        generation.tidy(path)
    return before, (folder / "data.mdb").stat().st_size


def _take_over(txn: lmdb.Transaction[bytes], old: LogFiles, new: LogFiles) -> None:
    """Append to the new files what the old ones have behind their end."""
    with new.env.begin(write=True) as writing:
        end, cursor = writing.cursor(new.events), txn.cursor(old.events)
        last = end.key() if end.last() else b""
        found = cursor.set_range(last) if last else cursor.first()
        if found and cursor.key() == last:
            found = cursor.next()
        while found:
            writing.put(cursor.key(), cursor.value(), append=True, db=new.events)
            found = cursor.next()
