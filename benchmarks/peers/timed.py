"""How a call is timed, for ours and for every peer: the standard library alone."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def milliseconds(call: Callable[[], Any], seconds: float = 1.5) -> float:
    """Returns the median time of a call, after 3 that are not counted, of at least 5."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)
