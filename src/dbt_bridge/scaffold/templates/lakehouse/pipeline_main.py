"""The one entry point for a scheduler: PIPELINE_MODE=cdc python pipeline_main.py, or --mode cdc."""

import argparse
import os
import sys

from cdc_load import cdc_load
from full_load import full_load

MODES = {"snapshot": full_load, "cdc": cdc_load}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", help="snapshot copies every table anew, cdc applies what changed")
    given, others = parser.parse_known_args()
    mode = given.mode or os.environ.get("PIPELINE_MODE")
    if mode not in MODES:
        parser.print_usage(sys.stderr)
        print(f"the mode is {mode!r}: --mode or PIPELINE_MODE must be one of {', '.join(MODES)}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = others  # more options for dbt-bridge, such as --target or --json
    MODES[mode]()


if __name__ == "__main__":
    main()
