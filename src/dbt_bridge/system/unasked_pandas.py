"""Keep pandas out of a process in which nobody asked for it.

DuckDB (1.5) and pyarrow (26) import pandas wherever it is installed, to look whether a value that they are handed is of
it: a second of start and 70 MB. A value of a package that was not imported cannot be there, so the answer is known.
"""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable
from types import FrameType

_PANDAS = "pandas"
_IMPORT = opcode.opmap["IMPORT_NAME"]
_MACHINERY = "<frozen importlib._bootstrap"


class _OnlyByName:
    """A finder of modules that knows one: libraries in C do not get it, `import pandas` in Python does."""

    def __init__(self, unless: Callable[[], bool]) -> None:
        self._unless = unless

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """None, so that others find it.

        Raises:
            ModuleNotFoundError: a library asks that can do without.
        """
        if name != _PANDAS:
            return
        asking = sys._getframe(1)
        while asking.f_code.co_filename.startswith(_MACHINERY) and asking.f_back is not None:
            asking = asking.f_back
        if not _names_it(asking) and not self._unless():
            raise ModuleNotFoundError(f"nothing in this process has asked for {_PANDAS}", name=_PANDAS)


def _names_it(frame: FrameType) -> bool:
    """Whether Python code imports it here; a library in C has the frame of whoever called that."""
    code = frame.f_code
    if "importlib" in code.co_filename:  # importlib.import_module, importlib.util.find_spec
        return True
    is_import = code.co_code[frame.f_lasti] == _IMPORT
    return is_import and any(name.partition(".")[0] == _PANDAS for name in code.co_names)


def keep_pandas_out(*, unless: Callable[[], bool]) -> None:
    """Let only those import pandas, from now on, who name it.

    For a process that is a command, and hands no frame of pandas to anybody: pyarrow remembers that there was none.

    Args:
        unless: asked when a library in C wants pandas; where it is true, it gets it.
    """
    if _PANDAS not in sys.modules:
        sys.meta_path.insert(0, _OnlyByName(unless))
