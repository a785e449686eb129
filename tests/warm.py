"""Imported by the process that runs are forked from: loads what each of them would load first."""

import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from lt_bench.experiment import prepare, run
from lt_bench.runtime import Runtime

tqdm.get_lock()  # made here, not lost with each process that is killed
torch.set_num_threads(1)  # so that no pool of threads is forked
with tempfile.TemporaryDirectory() as folder:
    run(prepare("digits_lt", "ce", ["optim.epochs=1"]), Runtime.choose("cpu", results=Path(folder)))
