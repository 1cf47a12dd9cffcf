"""Where the tests' chance comes from.

The same in every run, so that no change fails by what it did not touch. `make test-chance` (DBT_BRIDGE_SEED=random)
draws other seeds and other examples of hypothesis; a failure says its seed, and DBT_BRIDGE_SEED=<seed> plays it again.
"""

from __future__ import annotations

import os
import random

_ASKED = os.environ.get("DBT_BRIDGE_SEED", "")
IS_FIXED = _ASKED != "random"


def _drawn() -> int:
    """The same for all workers of one run, which must collect the same tests."""
    return random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(2**31)


SEED = int(_ASKED or 20261121) if IS_FIXED else _drawn()


def seeds(count: int) -> range:
    """As many seeds as there are runs: from 1, or from a drawn one; or the one that was asked for."""
    if not _ASKED:
        return range(1, count + 1)
    return range(SEED, SEED + (1 if IS_FIXED else count))
