"""Every tensor of a step is on the step's device, whatever that is: held on one that is no CPU.

The device is torch's "meta", which has shapes but no values: it is there on every machine, takes
the branches of a GPU, and refuses to meet a tensor of the CPU or to have a value read.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lt_bench.assembly import load_data, make_method, prepare
from lt_bench.data.loading import ResidentLoader
from lt_bench.data.mixing import Mixer
from lt_bench.data.transforms import TRANSFORMS, Views
from lt_bench.losses import CrossEntropy
from lt_bench.methods import METHODS
from lt_bench.models import heads
from lt_bench.progress import Progress
from lt_bench.schema import Spec, build
from tests.conformance import OBJECTIVES, batch, method_of, objective_id, objective_of
from tests.test_waiting import TRAINED

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    """Of which torch has none for this device."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


@pytest.mark.parametrize("entry", OBJECTIVES, ids=objective_id)
def test_objectives(entry):
    objective = objective_of(*entry).to(META)
    for at in (0, 80):  # before and after what begins late
        logits, target = (tensor.to(META) for tensor in batch("ordinary"))
        value = objective(logits.requires_grad_(), target, Progress(at, 100))
        value.backward()
        assert value.device == logits.grad.device == META
    assert objective.loss.probabilities(logits).device == META


@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    method = method_of(name).to(META).train()
    images, target = torch.rand(8, 4, device=META), torch.zeros(8, dtype=torch.int64, device=META)
    if list(method.trainable()):
        loss, _ = method(images, target, Progress(5, 10))
        loss.backward()
        assert loss.device == META
    assert method.probabilities(method.eval().predict(images)).device == META


@pytest.mark.parametrize("overlay", TRAINED)
def test_overlays(overlay):
    config = prepare("digits_lt", overlay)
    method = make_method(config, load_data(config.data, None)).to(META).train()
    images = torch.rand(8, 1, 8, 8, device=META)
    target = torch.zeros(8, dtype=torch.int64, device=META)
    if config.optim.mixup:
        images, target = Mixer(mixup=config.optim.mixup, cutmix=0.0)(images, target)
    loss, terms = method(images, target, Progress(5, 10))
    loss.backward()
    gradients = [parameter.grad for parameter in method.trainable()]
    assert all(gradient is not None for gradient in gradients)
    assert {tensor.device for tensor in (loss, *terms.values(), *gradients)} == {META}
    assert method.probabilities(method.eval().predict(images)).device == META


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"auto_augment"}))
def test_augmentation(name):
    """All but torchvision's AutoAugment, which looks at each image."""
    views = Views.plain(8, META)
    build("augment", Spec(name), TRANSFORMS)(views, None)
    images = torch.rand(4, 3, 32, 32, device=META)
    for change in views.changes:
        images = change(images, slice(4, 8))
    assert {views.mirrored_N.device, views.down_N.device, images.device} == {META}


def test_batches():
    config = prepare("digits_lt", "ce")
    data = load_data(config.data, None)
    loader = ResidentLoader(
        data.train, augment=(), batch_size=64, mean=data.mean, std=data.std, device=META
    )
    for images, target in loader.plain():
        assert images.device == target.device == META


@pytest.mark.parametrize("name", heads.HEADS)
def test_heads(name):
    head = heads.HEADS[name](16, 10).to(META)
    assert head(torch.rand(4, 16, device=META)).device == META


def test_a_tensor_left_on_the_cpu_is_seen(monkeypatch):
    class Forgetful(CrossEntropy):
        def forward(self, logits_BC, target_B, progress=None):
            return super().forward(logits_BC + torch.ones(logits_BC.shape[1]), target_B)

    logits, target = (tensor.to(META) for tensor in batch("ordinary"))
    with pytest.raises(RuntimeError, match="meta"):
        Forgetful(torch.ones(6))(logits, target)


def test_a_value_that_is_read_is_seen():
    with pytest.raises(RuntimeError, match="meta"):
        nn.Linear(2, 2).to(META)(torch.rand(1, 2, device=META)).sum().item()
