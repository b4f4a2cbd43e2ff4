"""Files that one process at a time may hold: a process that ends, however it ends, holds none."""

from typing import IO


def hold(file: IO, wait: bool = True) -> bool:
    """Holds an open file until it is closed; returns whether it could be had.

    Args:
        file: Any open file; who else holds it holds it by this function.
        wait: Whether to wait until it is free.

    Returns:
        True too where the system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
