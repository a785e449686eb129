"""Kill runs many times over.

    python -m tests.stress_resume --kills 200

Takes about a second a kill.
"""

import argparse
import tempfile
from pathlib import Path

from tests.killing import OVERLAYS, Rehearsal, fast_folder

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
        rehearsal = Rehearsal(Path(scratch))
        for overlay in OVERLAYS:
            met = rehearsal.kill(overlay, -(-arguments.kills // len(OVERLAYS)), arguments.seed)
            print(f"{overlay}: {dict(met)}, every record and model equal to the bit", flush=True)
