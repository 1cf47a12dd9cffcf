"""What dbt said of a project, kept beside its own partial parse until anything is different that dbt looks at.

One file for each set of options, in `dbt_bridge/` of the target folder, which `dbt clean` removes. It holds what a
manifest holds and nothing of a profile or of the environment, is readable by its user alone, and is written whole. A
file that is not ours, or not whole, is no answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from dbt_bridge.nouns.graph import BareSource, Graph, Node
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.reading.inputs import Inputs, find_inputs, fingerprint, options_key
from dbt_bridge.project.reading.project_file import find_target_folder, parses_whole
from dbt_bridge.project.reading.rendering import NotRendered

_FORMAT = 3
_KEPT = 24
"""Files in the folder: the oldest go."""

_OF_STATE = ("state:", "result:", "source_status:")
"""Methods of selectors that look at another run's artifacts: their answers are never kept."""


@dataclass(frozen=True, slots=True)
class Known:
    """A project as dbt parsed it, when all was as it is now.

    Attributes:
        profile, target: the names of the profile and of its output.
        is_composable: whether the warehouse can be told from the output without its adapter.
        fingerprint: of all that dbt looked at.
    """

    graph: Graph
    profile: str
    target: str
    is_composable: bool
    fingerprint: str


def recall(options: DbtOptions, dbt: str) -> Known | None:
    """What dbt said, where nothing has changed since; else None.

    Args:
        dbt: which dbt would be asked: `Runner.identity`.
    """
    if parses_whole(options):
        return None
    kept = _read(_find_file(options, "graph", dbt + options_key(options)))
    try:
        inputs = Inputs(tuple(kept["folders"]), tuple(kept["files"]), _as_names(kept["variables"]))
        now = fingerprint(inputs, options, dbt, kept["salt"])
        if kept["fingerprint"] != now:
            return None
        return Known(_load_graph(kept["graph"]), kept["profile"], kept["target"], kept["is_composable"], now)
    except (KeyError, TypeError, ValueError, AttributeError):  # not written by us, or by another version of us
        return None


class Recorder:
    """Takes the fingerprint before dbt reads, and keeps what it said only where it is the same afterwards."""

    def __init__(self, options: DbtOptions, dbt: str) -> None:
        self._options, self._dbt, self._salt = options, dbt, secrets.token_hex(16)
        self._before = self._look()

    def remember(self, graph: Graph, profile: str, target: str, *, is_composable: bool) -> str | None:
        """Keep what dbt said; answers the fingerprint, or None where it cannot be kept."""
        now = self._look()
        if self._before is None or now != self._before:
            return None
        inputs, seen = now
        document = {
            "fingerprint": seen,
            "salt": self._salt,
            "folders": inputs.folders,
            "files": inputs.files,
            "variables": inputs.variables,
            "profile": profile,
            "target": target,
            "is_composable": is_composable,
            "graph": _dump_graph(graph),
        }
        _write(_find_file(self._options, "graph", self._dbt + options_key(self._options)), document)
        return seen

    def _look(self) -> tuple[Inputs, str] | None:
        if parses_whole(self._options):
            return None
        try:
            inputs = find_inputs(self._options)
        except NotRendered:
            return None
        return inputs, fingerprint(inputs, self._options, self._dbt, self._salt)


def recall_selected(options: DbtOptions, seen: str | None) -> frozenset[str] | None:
    """The unique_ids that dbt listed for a selection of the project with this fingerprint; None where dbt must say."""
    if seen is None or not _is_selection_kept(options):
        return None
    kept = _read(_find_file(options, "selected", _selection_key(options)))
    names = kept.get("selected")
    return frozenset(names) if kept.get("fingerprint") == seen and isinstance(names, list) else None


def remember_selected(options: DbtOptions, seen: str | None, selected: frozenset[str]) -> None:
    """Keep what dbt listed for a selection."""
    if seen is not None and _is_selection_kept(options):
        document = {"fingerprint": seen, "selected": sorted(selected)}
        _write(_find_file(options, "selected", _selection_key(options)), document)


def _is_selection_kept(options: DbtOptions) -> bool:
    if options.flags.keys() & {"state", "defer_state"}:
        return False
    said = [*options.select, *options.exclude]
    with contextlib.suppress(OSError, ValueError):
        said.append((options.project_dir / "selectors.yml").read_text(encoding="utf-8"))
    methods = [method.removesuffix(":") for method in _OF_STATE]
    return not any(method in text for text in said for method in methods)


def _selection_key(options: DbtOptions) -> str:
    return json.dumps([options_key(options), options.select, options.exclude])


def _find_file(options: DbtOptions, kind: str, key: str) -> Path:
    name = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return find_target_folder(options) / "dbt_bridge" / f"{kind}-{name}.json"


def _read(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as opened:
            if hasattr(os, "getuid") and os.fstat(opened.fileno()).st_uid != os.getuid():
                return {}
            document = json.load(opened)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) and document.get("format") == _FORMAT else {}


def _write(file: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all, with mode 0600. A folder that cannot be written costs time, and is no error."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=file.parent, prefix=".")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                json.dump({"format": _FORMAT, **document}, opened, separators=(",", ":"), default=str)
            Path(beside).replace(file)
        except BaseException:
            Path(beside).unlink()
            raise
        for old in sorted(file.parent.glob("*-*.json"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)


def _as_names(names: Any) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


_TUPLES = ("tags", "depends_on", "primary_key", "fqn")
_DEFAULTS = {
    field.name: field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    for field in fields(Node)
    if field.default is not MISSING or field.default_factory is not MISSING
}


def _dump_graph(graph: Graph) -> dict[str, Any]:
    return {
        "project": graph.project,
        "adapter": graph.adapter,
        "dbt_version": graph.dbt_version,
        "nodes": list(_dump_nodes(graph.nodes)),
        "disabled": list(_dump_nodes(graph.disabled)),
        "bare_sources": [{f.name: getattr(one, f.name) for f in fields(BareSource)} for one in graph.bare_sources],
        "raw_blocks": graph.raw_blocks,
        "overrides": sorted(graph.overrides),
    }


def _dump_nodes(nodes: Mapping[str, Node]) -> Iterator[dict[str, Any]]:
    """Without what a field has by default; configs without what is not set."""
    for node in nodes.values():
        given = {field.name: getattr(node, field.name) for field in fields(Node)}
        yield {name: value for name, value in given.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}


def _load_graph(kept: Mapping[str, Any]) -> Graph:
    return Graph(
        kept["project"],
        kept["adapter"],
        kept["dbt_version"],
        _load_nodes(kept["nodes"]),
        _load_nodes(kept["disabled"]),
        tuple(BareSource(**one) for one in kept["bare_sources"]),
        {unique_id: tuple(blocks) for unique_id, blocks in kept["raw_blocks"].items()},
        frozenset(kept["overrides"]),
    )


def _load_nodes(kept: list[dict[str, Any]]) -> dict[str, Node]:
    for one in kept:
        for name in _TUPLES:
            if name in one:
                one[name] = tuple(one[name])
    return {one["unique_id"]: Node(**one) for one in kept}
