"""Imported by the process that runs are forked from: loads what each of them would load first."""

import tempfile
import threading
from pathlib import Path

import torch
from tqdm import tqdm

import lt_bench.running  # noqa: F401
from lt_bench.assembly import prepare
from lt_bench.experiment import run
from lt_bench.runtime import Runtime

tqdm.set_lock(threading.RLock())  # one between processes would stay locked by a killed one
torch.set_num_threads(1)  # so that no pool of threads is forked
with tempfile.TemporaryDirectory() as folder:
    run(prepare("digits_lt", "ce", ["optim.epochs=1"]), Runtime.choose("cpu", results=Path(folder)))
