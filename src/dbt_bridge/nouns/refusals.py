"""Several things that are wrong with one table, told at once: whoever mends them one by one runs a sync for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dbt_bridge.errors import BridgeError, ConnectionFailed, DestinationError, OriginError

_TYPES = re.compile(r"types: \{([^{}]*)\}")


class Refusals:
    """Gathers what is refused, and raises it as one error."""

    def __init__(self) -> None:
        self._errors: list[BridgeError] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Around one look; the next one is made all the same."""
        try:
            yield
        except (ConnectionFailed, DestinationError):
            raise  # of an end, and not of the table
        except BridgeError as error:
            if isinstance(error, OriginError) and error.broke_off:
                raise
            self._errors.append(error)

    def add(self, error: BridgeError | None) -> None:
        """One that was answered and not raised."""
        self._errors += [error] if error is not None else []

    def join(self) -> BridgeError | None:
        """What was refused, of the kind that all of it shares."""
        return _join(self._errors) if len(self._errors) > 1 else next(iter(self._errors), None)

    def raise_all(self) -> None:
        """Raises BridgeError: something was refused."""
        if (error := self.join()) is not None:
            raise error


def _join(errors: Sequence[BridgeError]) -> BridgeError:
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else BridgeError
    whats = dict.fromkeys(error.what for error in errors)
    mends = dict.fromkeys(error.mend for error in errors if error.mend)
    return kind("; and ".join(whats), mend=_join_mends(list(mends)))


def _join_mends(mends: Sequence[str]) -> str:
    """Types of several columns are one line of YAML."""
    types = [found.group(1) for mend in mends if (found := _TYPES.fullmatch(mend))]
    others = [mend for mend in mends if not _TYPES.fullmatch(mend)]
    joined = [f"types: {{{', '.join(types)}}}"] if types else []
    return "; and ".join([*joined, *others])
