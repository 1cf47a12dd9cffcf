"""Where the rows of one comparison meet: a private DuckDB, and a folder for what does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.errors import BridgeError, MissingExtra
from dbt_bridge.system.temporary_files import temporary_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LEAST_MB = 64  # below it DuckDB cannot work at all


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a comparison works in.

    Attributes:
        engine: a DuckDB in memory, of this comparison alone.
        folder: for files; it is removed with the workspace. It need not exist in a workspace of `inside`.
        memory_mb: what the comparison may take.
    """

    engine: DuckDBPyConnection
    folder: Path
    memory_mb: int

    def inside(self, name: str) -> Workspace:
        """The same workspace, whose files go to a folder of their own."""
        return replace(self, folder=self.folder / name)


@contextmanager
def open_workspace(memory_mb: int) -> Iterator[Workspace]:
    """A workspace that is removed when the context ends.

    Raises:
        BridgeError: no folder for temporary files could be made.
        MissingExtra: DuckDB is not installed.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder("verify"))
        except OSError as error:
            raise BridgeError(
                f"there is no room for temporary files: {error}", mend="set TMPDIR to a folder that you can write to"
            ) from error
        engine = stack.enter_context(closing(_connect(memory_mb, str(folder))))
        yield Workspace(engine, folder, memory_mb)


def engine_errors() -> type[Exception]:
    """What the engine raises; DuckDB is installed where a workspace was opened."""
    import duckdb

    return duckdb.Error


def _connect(memory_mb: int, folder: str) -> DuckDBPyConnection:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "comparing rows") from error
    settings: dict[str, Any] = {
        "memory_limit": f"{max(memory_mb, _LEAST_MB)}MB",
        "threads": "2",
        "temp_directory": folder,
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
    }
    return duckdb.connect(":memory:", config=settings)
