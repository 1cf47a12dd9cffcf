"""Copy every table anew, and build: for the first load, and after a slot was lost."""

import os
import sys
from pathlib import Path

from dbt_bridge.cli import main


def full_load():
    os.chdir(Path(__file__).resolve().parent)  # paths in profiles.yml and .dlt are relative to the project
    sys.argv[1:] = ["build", "--full-refresh", *sys.argv[1:]]
    main()


if __name__ == "__main__":
    full_load()
