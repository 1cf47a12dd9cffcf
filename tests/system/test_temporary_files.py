"""What a killed process leaves in the folder for temporary files, the next one removes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dbt_bridge.errors import BridgeError
from dbt_bridge.system.temporary_files import find_shared_folder, temporary_folder
from dbt_bridge.verify.rows.workspace import open_workspace

HOLDER = """
import time
from dbt_bridge.system.temporary_files import temporary_folder
with temporary_folder("verify") as folder:
    (folder / "rows").write_text("of somebody")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # where it is kept
    return tmp_path


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(temporary: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], text=True, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    theirs = Path(holder.stdout.readline().strip())
    assert theirs.parent == find_shared_folder("verify") and theirs.parent.stat().st_mode & 0o777 == 0o700
    with temporary_folder("verify") as ours:
        assert ours != theirs and (theirs / "rows").exists()
        holder.kill()
        holder.communicate(timeout=180)
        with temporary_folder("verify"):
            assert not theirs.exists() and ours.exists()
    assert [path.name for path in theirs.parent.iterdir()] == [".lock"]


def test_a_comparison_without_room_for_temporary_files_says_so(temporary: Path) -> None:
    (temporary / find_shared_folder("verify").name).write_text("in the way")
    with pytest.raises(BridgeError, match="no room for temporary files") as refused, open_workspace(256):
        pass
    assert "TMPDIR" in refused.value.mend
