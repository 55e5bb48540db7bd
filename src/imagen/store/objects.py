"""obstore, which reads and writes the pictures, and what it needs at the end of a program."""

import atexit
import functools
import time
from typing import Any

LET_GO_S = 0.05


def library() -> Any:
    """Its kinds of stores, for whichever thread asks."""
    from obstore import store  # not `from obstore.store`, which another thread may find before obstore is whole

    _wait_at_the_end()
    return store


@functools.cache
def _wait_at_the_end() -> None:
    # When an answer is there, a thread of obstore's has yet to let go of what Python lent it. If the interpreter is at
    # its end by then, that thread aborts the whole program, which had done all it was to do.
    atexit.register(time.sleep, LET_GO_S)
