"""What failed is tried again: which errors are worth it, how long the pauses are, and when it is enough.

Every place that tries again has its policy here, so that a slower or faster retry is one line:

    STREAM          `stream` waits for an origin or a warehouse that went away, until somebody stops it
    SLOT            a replication slot that is in use: the walsender of a killed process lives a little longer
    CONFLICT        transactions of several threads on one DuckDB file
    DLT_SCHEMA      two first loads into a dataset, both of which create dlt's own tables
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dbt_bridge.errors import ConnectionFailed, DestinationError, OriginError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses that grow by a factor from the first to the longest one.

    Attributes:
        first_pause, longest_pause: seconds.
        jitter: each pause is between these shares of its length, by chance, so that several do not retry in step.
        attempts: how often at most, with the first one; None for no such bound.
        seconds: how long after the first attempt the last one may begin; None for no such bound.
    """

    first_pause: float
    longest_pause: float
    growth: float = 2.0
    jitter: tuple[float, float] = (1.0, 1.0)
    attempts: int | None = None
    seconds: float | None = None

    def pause_after(self, failures: int) -> float:
        """Seconds to wait after so many failures (from 1), before jitter."""
        growth = self.growth ** min(failures - 1, 64)  # beyond that every pause is the longest, and a float overflows
        return min(self.longest_pause, self.first_pause * growth)

    def add_jitter(self, pause: float) -> float:
        return pause * random.uniform(*self.jitter)

    def is_over(self, failures: int, seconds: float) -> bool:
        """Whether to give up after so many failures and seconds."""
        too_often = self.attempts is not None and failures >= self.attempts
        return too_often or (self.seconds is not None and seconds >= self.seconds)


STREAM = RetryPolicy(1.0, 60.0, jitter=(0.75, 1.25))
SLOT = RetryPolicy(0.1, 0.1, seconds=5.0)
CONFLICT = RetryPolicy(0.002, 0.25, jitter=(0.0, 1.0), attempts=40)
DLT_SCHEMA = RetryPolicy(0.1, 1.6, attempts=6)


def is_transient(error: BaseException) -> bool:
    """Whether the same may succeed later without anybody doing anything: a server is away, or went away."""
    return isinstance(error, ConnectionFailed) or (
        isinstance(error, OriginError | DestinationError) and error.broke_off
    )


def retry(work: Callable[[], _T], policy: RetryPolicy, is_worth: Callable[[Exception], bool] = is_transient) -> _T:
    """Do work, again after each failure that is worth it, until the policy gives up: then its last error is raised.

    Args:
        work: leaves nothing behind when it fails.
    """
    began = time.monotonic()
    for failures in itertools.count(1):
        try:
            return work()
        except Exception as error:
            if not is_worth(error) or policy.is_over(failures, time.monotonic() - began):
                raise
        time.sleep(policy.add_jitter(policy.pause_after(failures)))
    raise AssertionError("unreachable")
