"""Energy and peak memory of a run, from counters that are set by hand or read for real."""

import mmap
import sys
import types

import pytest
import torch

from lt_bench import usage
from lt_bench.assembly import prepare
from lt_bench.config import ROOT
from lt_bench.experiment import run
from lt_bench.record import read, read_all, record_path
from lt_bench.runtime import Runtime
from lt_bench.usage import Usage
from tests.killing import finish, record, run_folder, train_arguments

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
MIB = 2**20


@pytest.fixture
def gpu(monkeypatch):
    """The part of NVML that is asked, of one GPU whose board counts millijoules."""
    board = types.SimpleNamespace(millijoules=7_000_000, asked=None)

    class NVMLError(Exception):
        pass

    def handle(uuid):
        board.asked = uuid
        return "handle"

    def energy(found):
        assert found == "handle"
        if board.millijoules is None:
            raise NVMLError
        return board.millijoules

    nvml = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = types.SimpleNamespace(uuid="0-1-2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    return board


def test_energy_of_a_gpu_is_its_boards(gpu):
    found = Usage(GPU)
    assert gpu.asked == "GPU-0-1-2"
    gpu.millijoules += 1_500
    assert found.as_dict()["energy_joules"] == 1.5
    assert found.as_dict()["peak_memory_bytes"] == 5
    gpu.millijoules = None
    assert found.as_dict()["energy_joules"] is None


def test_energy_of_a_gpu_is_unknown_without_the_extra(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Usage(GPU).as_dict()["energy_joules"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_peak_memory_begins_anew_with_each_run():
    found = Usage(CPU)
    before = found.as_dict()["peak_resident_bytes"]
    with mmap.mmap(-1, 100 * MIB) as pages:  # and given back at once, which an allocator may not do
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at] = 1
    peak = found.as_dict()["peak_resident_bytes"]
    assert 90 * MIB < peak - before < 140 * MIB
    after = Usage(CPU).as_dict()
    assert after["peak_resident_bytes"] < peak - 50 * MIB
    assert after["peak_memory_bytes"] is None


def test_the_peak_is_left_out_where_it_cannot_begin_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(usage, "PROCESS", tmp_path / "none")
    assert Usage(CPU).as_dict()["peak_resident_bytes"] is None


def test_parts_of_a_run_add_up(gpu):
    found = Usage(GPU)
    gpu.millijoules += 10_000
    large = {"energy_joules": 5.0, "peak_memory_bytes": 2**50, "peak_resident_bytes": 2**50}
    found.go_on_from(large)
    assert found.as_dict() == {**large, "energy_joules": 15.0}
    found.go_on_from({**large, "energy_joules": None})
    assert found.as_dict()["energy_joules"] is None


def test_a_stopped_run_counts_all_of_its_parts(monkeypatch, tmp_path):
    config = prepare("digits_lt", "ce", ["optim.epochs=3"])
    where = Runtime(CPU, "fp32", results=tmp_path / "results", checkpoint_seconds=0)
    monkeypatch.setattr(Usage, "_resident", lambda usage: 7 * MIB)

    def stop(line):
        if line["epoch"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, where, stop)
    monkeypatch.setattr(Usage, "_resident", lambda usage: 5 * MIB)
    finished = run(config, where)
    assert finished.environment["times_resumed"] == 1
    assert finished.peak_resident_bytes == 7 * MIB


@pytest.mark.parametrize(("is_alone", "joules"), [(True, 1.5), (False, None)])
def test_runs_side_by_side_do_not_each_claim_the_energy_of_all(is_alone, joules, gpu):
    found = Usage(GPU, is_alone=is_alone)
    gpu.millijoules += 1_500
    assert found.as_dict()["energy_joules"] == joules


def test_a_record_says_what_the_run_took(tmp_path):
    finish(train_arguments("ce", tmp_path))
    found = record(run_folder("ce", tmp_path))
    assert found["peak_memory_bytes"] is None
    assert 100 * MIB < found["peak_resident_bytes"] < 4096 * MIB
    assert found["environment"].keys() >= {"commit", "dirty", "packages", "device", "precision"}
    assert "workers" not in found["environment"]  # nothing was read from files
    read_all(tmp_path)


def test_records_from_before_are_read():
    found = read(record_path(ROOT / "results", "digits_lt-ce-s0-c55ed7a8"))
    assert found.energy_joules is None
