"""What holds for every entry of HEADS and METHODS, and of timm's models for some of each kind.

Losses and weightings have their own suites.
"""

import copy

import pytest
import torch

from lt_bench.methods import METHODS
from lt_bench.models.heads import HEADS
from lt_bench.models.pretrained import timm
from lt_bench.progress import Progress
from tests.conformance import BATCHES, NUM_CLASSES, NUM_FEATURES, images_of, method_of

PRECISIONS = pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
TRAINED = [name for name, method in METHODS.items() if method.is_trained]


def plain_tensors(module):
    """Tensors that a checkpoint, a device move and a rank would not know of."""
    return [
        f"{type(part).__name__}.{name}"
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, torch.Tensor)
    ]


def gradients(module):
    return [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    "model", ["resnet18", "mobilenetv3_small_100", "vgg11", "vit_tiny_patch16_224", "hgnetv2_b0"]
)
def test_timm_models_give_as_many_features_as_they_say(model):
    with torch.device("meta"):
        backbone = timm(model=model).eval()
        features = backbone(torch.zeros(2, 3, 224, 224))
    assert features.shape == (2, backbone.num_features)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("num_samples", [1, 8])
@PRECISIONS
def test_heads_are_finite(name, size, num_samples, bf16):
    head = HEADS[name](NUM_FEATURES, NUM_CLASSES)
    features = (size * torch.randn(num_samples, NUM_FEATURES)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = head(features)
    assert logits.shape == (num_samples, NUM_CLASSES)
    logits.float().logsumexp(1).sum().backward()
    assert all(g.isfinite().all() for g in [features.grad, *gradients(head)])


@pytest.mark.parametrize("name", HEADS)
def test_heads_keep_their_state(name):
    head, other = (HEADS[name](NUM_FEATURES, NUM_CLASSES) for _ in range(2))
    features = torch.randn(3, NUM_FEATURES)
    assert not torch.equal(head(features), other(features))
    other.load_state_dict(head.state_dict())
    assert torch.equal(head(features), other(features))
    assert torch.equal(head(features), copy.deepcopy(head)(features))
    assert plain_tensors(head) == []


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("kind", BATCHES)
@PRECISIONS
def test_a_step_of_every_method_is_finite(name, kind, bf16):
    method = method_of(name).train()
    images, target = images_of(kind, method)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, terms = method(images, target, Progress(70, 100))
    assert loss.shape == ()
    loss.backward()
    assert loss.isfinite()
    learning = {id(p) for p in method.trainable()}
    for parameter in method.parameters():
        if id(parameter) in learning:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        else:
            assert parameter.grad is None
    assert all(value.isfinite().all() and not value.requires_grad for value in terms.values())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", BATCHES)
@PRECISIONS
def test_every_method_predicts_finite_logits(name, kind, bf16):
    method = method_of(name).eval()
    images, _ = images_of(kind, method)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = method.predict(images)
    assert logits.shape == (len(images), NUM_CLASSES)
    assert logits.isfinite().all()
    assert method.probabilities(logits.double()).isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_keep_their_state(name):
    method = method_of(name).train()
    images, target = images_of("ordinary", method)
    if method.is_trained:
        method(images, target, Progress())  # moves what tracks the training
    clone = copy.deepcopy(method)
    fresh = method_of(name).train()
    fresh.load_state_dict(method.state_dict())
    assert plain_tensors(method) == []
    for other in (clone, fresh):
        assert torch.equal(method.eval().predict(images), other.eval().predict(images))
        for key, value in method.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_an_exported_model_predicts_as_the_method_does(name):
    method = method_of(name).eval()
    images, _ = images_of("ordinary", method)
    other = method_of(name).eval()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(method.model_state(), strict=False)
    assert torch.equal(method.predict(images), other.predict(images))
