"""Ids: 26 characters that sort by time (ULID), the same form that the database makes for rows inserted by SQL."""

import secrets
import time
from datetime import datetime

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_last = 0


def new_id() -> str:
    """A fresh id, larger than every id this process made before."""
    global _last
    fresh = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    # Within one millisecond, or when the clock steps back, count on: jobs of one series keep their order.
    _last = fresh if fresh >> 80 > _last >> 80 else _last + 1 + secrets.randbits(32)
    return _written(_last)


def first_id(at: datetime) -> str:
    """The smallest id that could be made at this moment."""
    return _written(int(at.timestamp() * 1000) << 80)


def _written(number: int) -> str:
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
