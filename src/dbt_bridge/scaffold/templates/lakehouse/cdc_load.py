"""Bring the Delta tables up to what the shop holds now, and build on them. The first time it copies."""

import os
import sys
from pathlib import Path

from dbt_bridge.cli import main


def cdc_load():
    os.chdir(Path(__file__).resolve().parent)  # paths in profiles.yml and .dlt are relative to the project
    sys.argv[1:] = ["build", *sys.argv[1:]]
    main()


if __name__ == "__main__":
    cdc_load()
