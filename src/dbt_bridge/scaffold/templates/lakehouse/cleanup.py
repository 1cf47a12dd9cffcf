"""Take away what the pipeline made: slot and publications at the shop, the lake's folder, the DuckDB file. Asks first.

A lake in a bucket (.dlt/config.toml) stays: delete it with your cloud's own tools.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

LAKE, WAREHOUSE = Path("lake"), Path("<%= name %>.duckdb")


def agreed():
    try:
        return input("Type yes to go on: ").strip() == "yes"
    except EOFError:  # nobody is there to ask
        return False


def cleanup():
    os.chdir(Path(__file__).resolve().parent)
    files = [path for path in (LAKE, WAREHOUSE, WAREHOUSE.with_name(f"{WAREHOUSE.name}.wal")) if path.exists()]
    print("This drops the replication slot and its publications at the shop's PostgreSQL, and deletes:")
    print("\n".join(f"  {path.resolve()}" for path in files) or "  no files: there are none")
    if "--yes" not in sys.argv[1:] and not agreed():
        print("nothing was touched; --yes does not ask")
        sys.exit(1)
    # First the slot, and only with it the files: a slot that nobody reads keeps the shop's log for ever.
    dropped = subprocess.run([sys.executable, "-m", "dbt_bridge", "slots", "drop", "--yes"], check=False)
    if dropped.returncode:
        print("the files stay, as the slot was not dropped")
        sys.exit(dropped.returncode)
    for path in files:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    print("done")


if __name__ == "__main__":
    cleanup()
