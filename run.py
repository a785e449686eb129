"""Hands the command line to lt_bench; `python run.py --help` lists the verbs."""

import sys

from lt_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
