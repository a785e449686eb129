"""Evaluation: right counts, without batch norms the same predictions, the method as it was."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import nn

from lt_bench.assembly import load_data, make_loader, make_method, prepare
from lt_bench.evaluate import evaluate, folded_backbone
from lt_bench.models.backbones import BACKBONES
from lt_bench.models.folding import Foldable
from lt_bench.runtime import Runtime
from lt_bench.samplers import instance
from lt_bench.train import fit
from tests.synthetic import calibration_of

FP32 = Runtime(torch.device("cpu"), "fp32")
BF16 = Runtime(torch.device("cpu"), "bf16")


def used(backbone: nn.Module, *shape: int) -> nn.Module:
    """Its batch norms with statistics and factors of their own, as after training."""
    torch.manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    backbone.train()
    for _ in range(20):
        backbone(torch.randn(shape) + 0.3)
    return backbone.eval()


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [("cifar_resnet", {"depth": 14}, (16, 3, 32, 32)), ("small_conv", {}, (16, 1, 8, 8))],
)
def test_a_folded_backbone_has_the_same_features_and_no_batch_norm(name, options, shape):
    backbone = used(BACKBONES[name](**options), *shape).to(memory_format=torch.channels_last)
    folded = backbone.folded()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    images = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), backbone(images), rtol=1e-4, atol=1e-4)
    for weight in folded.parameters():
        assert weight.ndim < 4 or weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def digits():
    """A method on the digits, its test split, and what it predicts with its batch norms."""
    config = prepare("digits_lt", "ce")
    data = load_data(config.data, None)
    method = FP32.place(make_method(config, data))
    loader = make_loader(data, data.train, config, FP32)
    fit(method, loader, instance, replace(config.optim, epochs=3), 0, FP32)
    method.eval()
    test = make_loader(data, data.test, config, FP32)
    with torch.no_grad():
        plain = torch.cat([method.predict(images).argmax(dim=1) for images, _ in test.plain()])
    return method, test, data.num_classes, plain.numpy()


def test_evaluation_predicts_the_same_in_float32_with_folded_batch_norms(digits):
    method, test, num_classes, plain = digits
    norm = next(m for m in method.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    calls = []
    handle = norm.register_forward_hook(lambda *_: calls.append("normalised"))
    result = evaluate(method, test, num_classes, FP32)
    handle.remove()
    assert np.unique(plain).size > 5
    assert (result.predictions() == plain).all()
    assert calls == []


def test_evaluation_counts_what_metrics_and_scikit_learn_count(digits):
    """Bins and likelihood are summed on the device; the scores' own code sums them in numpy."""
    method, test, num_classes, _ = digits
    result = evaluate(method, test, num_classes, FP32)
    with torch.no_grad(), folded_backbone(method):
        batches = [method.predict(images).double() for images, _ in test.plain()]
        probabilities = method.probabilities(torch.cat(batches)).numpy()
    labels = test.labels.numpy()
    for name, theirs in calibration_of(probabilities, labels).items():
        ours = getattr(result.calibration, name).bins
        assert ours.count.tolist() == theirs.count.tolist()
        assert ours.correct.tolist() == theirs.correct.tolist()
        assert ours.confidence == pytest.approx(theirs.confidence, rel=1e-9)
    assert result.nll == pytest.approx(log_loss(labels, probabilities))
    top5 = top_k_accuracy_score(labels, probabilities, k=5, normalize=False)
    assert sum(result.top5_correct) == top5
    right = labels[probabilities.argmax(axis=1) == labels]
    assert list(result.correct) == np.bincount(right, minlength=num_classes).tolist()


def test_what_is_predicted_among_equals_is_in_the_top_five(digits):
    """topk takes others than argmax, and a record whose top five lack a hit would be refused."""
    method, test, num_classes, _ = digits
    state = copy.deepcopy(method.head.state_dict())
    for parameter in method.head.parameters():
        nn.init.zeros_(parameter)
    result = evaluate(method, test, num_classes, FP32)
    method.head.load_state_dict(state)
    assert sum(result.correct) == result.correct[0] > 0
    assert result.top5_correct[0] == result.correct[0]


def test_evaluation_in_bfloat16_agrees_within_its_rounding(digits):
    method, test, num_classes, plain = digits
    result = evaluate(method, test, num_classes, BF16)
    assert (result.predictions() == plain).mean() > 0.98


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_bfloat16_tells_close_logits_apart(digits, mode):
    """The lower label is the more frequent class: it must not win what rounding makes a draw."""
    method, test, num_classes, _ = digits
    state = copy.deepcopy(method.head.state_dict())
    with torch.no_grad():
        method.head.weight[1] = method.head.weight[0] * (1 + 2.0**-12)
        method.head.bias[1] = method.head.bias[0]
        images = torch.cat([images for images, _ in test.plain()])
        with BF16.autocast():
            logits = copy.deepcopy(method).train(mode == "training").predict(images)
    method.head.load_state_dict(state)
    assert logits.dtype == torch.float32
    assert (logits[:, 0] != logits[:, 1]).all()


def test_the_backbone_is_back_after_a_fault(digits):
    method, *_ = digits
    backbone = method.backbone
    seen = []

    def fail():
        with folded_backbone(method):
            seen.append(method.backbone)
            raise RuntimeError("fault")

    with pytest.raises(RuntimeError, match="fault"):
        fail()
    assert seen[0] is not backbone
    assert method.backbone is backbone


def test_a_backbone_without_folding_is_evaluated_as_it_is(digits):
    method, *_ = digits
    own = method.backbone
    method.backbone = nn.Flatten()
    try:
        assert not isinstance(method.backbone, Foldable)
        with folded_backbone(method):
            assert isinstance(method.backbone, nn.Flatten)
    finally:
        method.backbone = own
    assert isinstance(own, Foldable)
