"""What the last sync saw at the origins, kept beside dbt's artifacts: `plan` tells it, which opens no connection.

It is a note for people, and decides nothing: another machine's sync, or a target folder that is gone, leaves it out.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dbt_bridge.nouns.project import Project


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that a sync saw.

    Attributes:
        subject: `origin shop_pg`, a source, or a table by its unique_id.
        mend: the next command; empty where nothing is wrong.
        seen_at: when, in ISO 8601.
    """

    subject: str
    what: str
    mend: str
    seen_at: str = ""


def remember(project: Project, looked_at: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Keep what a sync saw; of what it did not look at, what earlier ones saw stays.

    Args:
        looked_at: subject -> what and mend of each note; empty for one of which there is nothing to tell.
    """
    file = _find_file(project)
    if file is None:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    seen = [Note(subject, *told, now) for subject, notes in looked_at.items() for told in notes]
    before = _read(file)
    kept = [note for note in before if note.subject not in looked_at] + seen
    if kept or before:
        _write(file, kept)


def recall(project: Project) -> tuple[Note, ...]:
    """What is remembered of what the selection needs, and of origins that no source names any more."""
    file = _find_file(project)
    named = {f"origin {source.origin}": project.needs_source(source) for source in project.sources}
    sources = {source.defaults.node.removesuffix("."): source for source in project.sources}
    found = []
    for note in _read(file) if file is not None else ():
        if note.subject in sources:
            needed = project.needs_source(sources[note.subject])
        elif note.subject.startswith("origin "):
            needed = named.get(note.subject, True)
        else:
            needed = note.subject.rpartition(".")[0] in sources and project.needs(note.subject)
        found += [note] if needed else []
    return tuple(found)


def _find_file(project: Project) -> Path | None:
    """None for a project that has no folder of artifacts."""
    if project.target_path == Path():
        return None
    return project.root / project.target_path / "dbt_bridge" / "seen" / f"{project.target or 'target'}.json"


def _read(file: Path) -> list[Note]:
    try:
        return [Note(**note) for note in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):  # it is not there, or another version's
        return []


def _write(file: Path, notes: Sequence[Note]) -> None:
    """Whole or not at all. A folder that cannot be written to has no notes."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=file.parent, prefix=".")
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump([asdict(note) for note in notes], opened, ensure_ascii=False)
        Path(beside).replace(file)
