# The rank of a learn group that this process is, where torchrun started it.
from __future__ import annotations

import logging
import os
import signal
import socket
from time import monotonic, sleep
from typing import TYPE_CHECKING

from serving.logs import set_up_logs

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store  # torch takes two seconds to import

    from models.group import Group

_log = logging.getLogger(__name__)


def join() -> Group | None:
    """The group of which torchrun's environment makes this process a rank; None where there is no such environment.

    A rank computes on a GPU of its own where the machine has one for each of its ranks. Call it before signals are
    caught: who waits here for a rank that does not come has nothing to put in order, and is to end at once.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    import torch

    from models.group import Group

    local_rank, num_local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])  # of this machine
    has_gpus = torch.cuda.device_count() >= num_local
    return Group(*_meet(), torch.device("cuda", local_rank) if has_gpus else torch.device("cpu"))


def _meet() -> tuple[Store, int, int]:
    """A store of rank 0 that lives as long as it does, this process's rank, and the number of ranks.

    torchrun's own store outlives the ranks, and would give those of a restart the addresses of those before. Here it
    tells where rank 0's is; where it still tells of an earlier one, nobody answers there.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch forgets to list it
    from torch.distributed.rendezvous import rendezvous

    from models.group import JOIN_PATIENCE, RankLost

    theirs, rank, size = next(rendezvous("env://", timeout=JOIN_PATIENCE))
    host, until = os.environ["MASTER_ADDR"], monotonic() + JOIN_PATIENCE.total_seconds()
    if rank == 0:
        store = TCPStore(host, 0, size, True, JOIN_PATIENCE, wait_for_workers=False)
        theirs.set("rank-0", str(store.port))
        return store, rank, size
    while not _answers(host, port := int(theirs.get("rank-0"))):
        if monotonic() > until:
            raise RankLost(f"rank 0 does not answer rank {rank} at {host}:{port}")
        sleep(0.05)
    return TCPStore(host, port, size, False, JOIN_PATIENCE, wait_for_workers=False), rank, size


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def help_rank_0(group: Group, num_threads: int) -> None:
    """Be a rank that helps, with so many threads, until rank 0 stops.

    Signals do not end it: torchrun sends them to all ranks, and rank 0 ends its step in good order first. When rank 0
    is gone, so is the connection to it.
    """
    import torch

    set_up_logs(f"learn-{group.rank}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(num_threads)
    _log.info("rank %d of %d helps on %s", group.rank, group.size, group.device)
    group.help()
    _log.info("rank %d stops", group.rank)
