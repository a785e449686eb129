"""Energy and peak memory of a run, from counters that are set by hand or read for real."""

import math
import mmap
import sys
import types

import pytest
import torch

from lt_bench import usage
from lt_bench.config import ROOT
from lt_bench.experiment import prepare, run
from lt_bench.record import read, read_all, record_path
from lt_bench.runtime import Runtime
from lt_bench.usage import Counter, Usage
from tests.killing import finish, record, run_folder, train_arguments

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """RAPL as a machine with two CPU packages shows it; sets a zone's joules."""
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
        "dtpm": None,
    }

    def put(zone, joules):
        (tmp_path / zone / "energy_uj").write_text(f"{round(1e6 * joules)}\n")

    for zone, name in zones.items():
        (tmp_path / zone).mkdir()
        if name:
            (tmp_path / zone / "name").write_text(f"{name}\n")
            (tmp_path / zone / "max_energy_range_uj").write_text("262143000000\n")
            put(zone, 262_000)
    monkeypatch.setattr(usage, "RAPL", tmp_path)
    return put


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(usage.time, "monotonic", lambda: now.seconds)
    return now


def test_energy_is_the_sum_over_the_cpu_packages(packages, clock):
    found = Usage(CPU)
    packages("intel-rapl:0", 262_100)
    packages("intel-rapl:0:0", 262_140)
    packages("intel-rapl:1", 262_010.5)
    packages("intel-rapl:2", 262_143)
    packages("intel-rapl-mmio:0", 262_123)
    assert found.as_dict()["energy_joules"] == pytest.approx(110.5)


def test_a_counter_may_go_round_once_between_two_looks(packages, clock):
    found = Usage(CPU)
    packages("intel-rapl:0", 100)  # of 262,143 joules
    clock.seconds += 200
    assert found.as_dict()["energy_joules"] == pytest.approx(243)
    packages("intel-rapl:0", 50)
    clock.seconds += 200
    found.poll()
    packages("intel-rapl:0", 60)
    assert found.as_dict()["energy_joules"] == pytest.approx(243 + 262_093 + 10)


def test_a_counter_that_may_have_gone_round_unseen_is_not_trusted(packages, clock):
    found = Usage(CPU)
    packages("intel-rapl:0", 262_001)
    clock.seconds += 263  # at a thousand watts it would be round
    assert found.as_dict()["energy_joules"] is None


def test_steps_look_at_the_counters_now_and_then(packages, clock):
    found = Usage(CPU)
    looks = []
    found.counters = [Counter(lambda: looks.append(clock.seconds) or 0.0)]
    for clock.seconds in range(1, 100):
        found.poll()
    assert looks == [0, 31, 62, 93]


def test_a_package_that_may_not_be_read_leaves_the_energy_unknown(packages, tmp_path):
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert Usage(CPU).as_dict()["energy_joules"] is None


def test_energy_that_runs_share_is_not_counted(packages, clock):
    assert Usage(CPU, is_alone=False).as_dict()["energy_joules"] is None


def test_without_counters_there_is_no_energy(monkeypatch, tmp_path):
    monkeypatch.setattr(usage, "RAPL", tmp_path / "none")
    assert Usage(CPU).as_dict()["energy_joules"] is None


def test_a_counter_that_fails_or_falls_back_is_not_trusted():
    for series in ([5.0, 6.0, math.nan, 8.0], [5.0, 6.0, 4.0, 8.0]):
        counter = Counter(iter(series).__next__)
        assert counter.joules() == 1.0
        assert not math.isfinite(counter.joules())
        assert not math.isfinite(counter.joules())


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
    found = Usage(torch.device("cuda", 1))
    assert gpu.asked == "GPU-0-1-2"
    gpu.millijoules += 1_500
    assert found.as_dict()["energy_joules"] == 1.5
    assert found.as_dict()["peak_memory_bytes"] == 5
    gpu.millijoules = None
    assert found.as_dict()["energy_joules"] is None


def test_energy_of_a_gpu_is_unknown_without_the_extra(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Usage(torch.device("cuda")).as_dict()["energy_joules"] is None


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


def test_parts_of_a_run_add_up(packages, clock):
    found = Usage(CPU)
    packages("intel-rapl:0", 262_010)
    large = {"energy_joules": 5.0, "peak_memory_bytes": None, "peak_resident_bytes": 2**50}
    found.go_on_from(large)
    assert found.as_dict() == {**large, "energy_joules": pytest.approx(15.0)}
    found.go_on_from({**large, "energy_joules": None})
    assert found.as_dict()["energy_joules"] is None


def test_a_stopped_run_counts_all_of_its_parts(packages, tmp_path):
    config = prepare("digits_lt", "ce", ["optim.epochs=3"])
    where = Runtime(CPU, "fp32", results=tmp_path / "results", checkpoint_seconds=0)

    def stop(line):
        packages("intel-rapl:0", 262_100)
        if line["epoch"]:
            raise KeyboardInterrupt

    def go_on(line):
        packages("intel-rapl:1", 262_007)

    with pytest.raises(KeyboardInterrupt):
        run(config, where, stop)
    finished = run(config, where, go_on)
    assert finished.environment["times_resumed"] == 1
    assert finished.energy_joules == pytest.approx(107)


@pytest.mark.parametrize(("jobs", "joules"), [(1, 0.0), (2, None)])
def test_runs_side_by_side_do_not_each_claim_the_energy_of_all(jobs, joules, packages, tmp_path):
    config = prepare("digits_lt", "ce", ["optim.epochs=1"])
    where = Runtime(CPU, "fp32", results=tmp_path / "results", jobs=jobs)
    assert run(config, where).energy_joules == joules


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
