"""Nothing in a training step waits for the device: reading a value back is for the epoch's end."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lt_bench.assembly import prepare
from lt_bench.config import names
from lt_bench.methods import METHODS, OneStage
from lt_bench.runtime import Runtime
from lt_bench.samplers import SAMPLERS
from lt_bench.schema import bind
from lt_bench.train import fit
from tests.digits import CPU, ready

TRAINED = [
    name
    for name in names("configs/methods")
    if (config := prepare("digits_lt", name)).parent is None and config.optim.epochs
]
# which kind of mixing and its share: drawn by the CPU whatever the device, so nothing waits
DRAWN_BY_THE_CPU = {"mixup": 2}


class Reads(TorchDispatchMode):
    """Counts what makes the host wait on a GPU: values read, sizes that depend on values."""

    operators = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"})
    methods = ("cpu", "numpy", "tolist")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found = Counter()
        for name in self.methods:
            patch.setattr(torch.Tensor, name, self.counting(name, getattr(torch.Tensor, name)))

    def counting(self, name, method):
        def counted(*args, **kwargs):
            self.found[name] += 1
            return method(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed_by_mask = name == "index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in self.operators or indexed_by_mask:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def reads_of_an_epoch(overlay, batch_size, patch, *overrides):
    size = f"optim.batch_size={batch_size}"
    config, method, loader = ready(overlay, "optim.epochs=1", size, *overrides)
    sampler = bind("sampler", config.sampler, SAMPLERS)
    with patch.context() as only_here, Reads(only_here) as reads:
        fit(method, loader, sampler, config.optim, 0, CPU)
    return len(loader), reads.found


@pytest.mark.parametrize("overlay", TRAINED)
def test_an_epoch_of_more_steps_reads_no_more(overlay, monkeypatch):
    few, reads_of_few = reads_of_an_epoch(overlay, 512, monkeypatch)
    many, reads_of_many = reads_of_an_epoch(overlay, 64, monkeypatch)
    assert many > 3 * few
    drawn = DRAWN_BY_THE_CPU.get(overlay, 0) * (many - few)
    assert reads_of_many == reads_of_few + Counter({"_local_scalar_dense": drawn})
    assert sum(reads_of_few.values()) > 0  # the epoch's loss is read


@pytest.mark.parametrize("read", ["item", "tolist", "cpu"])
def test_a_step_that_reads_is_seen(read, monkeypatch):
    class Reading(OneStage):
        def forward(self, images, target, progress):
            loss, terms = super().forward(images, target, progress)
            getattr(loss.detach(), read)()
            return loss, terms

    monkeypatch.setitem(METHODS, "one_stage", Reading)
    few, reads_of_few = reads_of_an_epoch("ce", 512, monkeypatch)
    many, reads_of_many = reads_of_an_epoch("ce", 64, monkeypatch)
    assert (reads_of_many - reads_of_few).total() == many - few


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("overlay", "compiled"),
    [
        *((name, False) for name in TRAINED),
        *((name, True) for name in ("recall", "seql", "sdn_recall", "ldam_drw", "mixup")),
    ],
)
def test_no_step_waits_for_the_gpu(overlay, compiled, monkeypatch):
    where = Runtime.choose("cuda", compiled=compiled)
    config, method, loader = ready(overlay, "optim.epochs=4", where=where)
    epoch, epochs = loader.epoch, []

    def watched(*args, **kwargs):
        epochs.append(len(epochs))
        # the compiler reads, and a graph is recorded, in the first two epochs
        torch.cuda.set_sync_debug_mode("error" if not compiled or len(epochs) > 2 else "default")
        try:
            yield from epoch(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loader, "epoch", watched)
    sampler = bind("sampler", config.sampler, SAMPLERS)
    fit(where.place(method), loader, sampler, config.optim, 0, where)
    assert len(epochs) == 4


def test_no_step_counts_the_batches_a_norm_has_seen():
    method = CPU.place(ready("ce")[1])
    assert not [name for name in method.state_dict() if name.endswith("num_batches_tracked")]
