"""A position: a place in the log of a change source, ordered, with the text that its database writes for it.

Postgres writes an LSN (`16/B374D848`), MySQL a set of GTIDs, SQL Server ten bytes. Receipts, checkpoints and options
hold the text; a change source reads it back (`ChangeSource.parse_position`). Vectors of changes and the guards of
destinations hold the ordinal, which is 64 bits wide whatever the text is:

    ascending   a commit that comes later in the log has a greater ordinal
    stable      a commit has the same ordinal each time that it is read, in whichever process: a destination that wrote
                it before a crash finds it again by that number
    apart       two commits are at least two apart: a repair is written under the number before a commit's

Where the text is a number of at most 63 bits, the number is the ordinal (Postgres). Where it is not, the source numbers
the commits as it reads them, and writes the number into the text too (`0000002A000001F00003@57`), so that a checkpoint
has both and counting goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A table that stands at a position holds every commit whose ordinal is below it, and none of the others.

    Positions of one log are compared by their ordinals; those of different logs have nothing to do with each other.

    Attributes:
        ordinal: from 0 to 2**63 - 1; 0 is before the first commit.
        text: as people see it and as `ChangeSource.parse_position` reads it: without white space, with a digit.
        past: by what the change source knows again whether its log is still the one that led here: opaque to everybody
            else, kept in checkpoints, and empty where nothing is known.
    """

    ordinal: int
    text: str = field(compare=False)
    past: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text


def may_be_position(text: str) -> bool:
    """Whether a change source could read the text at all; only the source itself knows whether it does."""
    stripped = text.strip()
    return any(character.isdigit() for character in stripped) and not any(c.isspace() for c in stripped)
