# Free ports on loopback, and the check that the API's own port is free.
from __future__ import annotations

import socket
from random import SystemRandom

_SINGLE_PORTS = range(12_000, 20_000)  # blocks come after them


class PortInUse(OSError):  # noqa: N818  named for what is so
    """The API's port is taken; names host, port and setting."""


def require_free(host: str, port: int) -> None:
    """Raise PortInUse where `host:port` cannot be bound now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUse(
                f"port {port} on {host} cannot be used ({error.strerror}): another program listens there; "
                "end it, or choose another with --port (RUNNEL_PORT)"
            ) from error


def free_ports(count: int) -> list[int]:
    """Distinct ports free on loopback at this moment, below the range that the system hands out by itself: a port of
    that range may be some connection's own by the time it is bound. Raises PortInUse where there are not so many."""
    found: list[int] = []
    # Any two processes that look at once should not find the same: the order is nobody's to repeat.
    for port in SystemRandom().sample(_SINGLE_PORTS, len(_SINGLE_PORTS)):
        if len(found) == count:
            return found
        if _is_free(port):
            found.append(port)
    raise PortInUse(f"no {count} free ports between {_SINGLE_PORTS.start} and {_SINGLE_PORTS.stop} on loopback")


def free_block(seed: int, size: int, low: int = 20_000, high: int = 32_000) -> tuple[int, int]:
    """First and last of `size` neighbouring free ports, below the range that the system hands out by itself.

    The search starts at a place that `seed` decides, so that two homes rarely look at the same block at once.
    Raises PortInUse where there is none.
    """
    num_blocks = (high - low) // size
    for step in range(num_blocks):
        first = low + (seed + step) % num_blocks * size
        if all(_is_free(port) for port in range(first, first + size)):
            return first, first + size - 1
    raise PortInUse(f"no {size} neighbouring free ports between {low} and {high} on loopback for the replicas")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
