"""What the suites over LOSSES and WEIGHTINGS share: every entry, and batches that are hard on it.

B batch, C classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lt_bench.config import ObjectiveConfig
from lt_bench.losses import LOSSES
from lt_bench.methods import METHODS, Method, Parts
from lt_bench.models.heads import HEADS
from lt_bench.schema import Spec
from lt_bench.weighting import WEIGHTINGS, Objective, make_objective

CLASS_COUNTS = torch.tensor([500, 200, 80, 30, 12, 5])
NUM_CLASSES = len(CLASS_COUNTS)

# every entry as it is by default, and those whose options change what is computed
LOSS_SPECS = [
    *(Spec(name) for name in LOSSES),
    Spec("focal", {"gamma": 0.5, "exponent_beta": 0.999}),
    Spec("seql", {"threshold": 1.1, "gamma": 1.0}),
    Spec("eql", {"threshold": 1.1}),
    Spec("label_aware_smoothing", {"shape": "convex"}),
    Spec("dice", {"layout": "sample", "balanced": True}),
    Spec("sum", {"parts": [{"name": "focal"}, "ldam", "seesaw"], "factors": [1, 0.5, 2]}),
    Spec("ramp", {"shape": "alternating", "first": "ce", "second": "ldam"}),
]
WEIGHTING_SPECS = [
    *(Spec(name) for name in WEIGHTINGS),
    Spec("effective_number", {"start": 0.8}),
    *(
        Spec("recall", {"estimate": estimate})
        for estimate in ("official_batch", "official_ema", "paper_batch", "present_ema")
    ),
]


def spec_id(spec: Spec) -> str:
    return "-".join([spec.name, *(f"{key}={value}" for key, value in spec.options.items())])


def batch(kind: str, num_samples: int = 8) -> tuple[Tensor, Tensor]:
    """Logits (B, C) and targets (B,), the same at every call."""
    generator = torch.Generator().manual_seed(7)
    target_B = torch.randint(NUM_CLASSES, (num_samples,), generator=generator)
    logits_BC = torch.randn(num_samples, NUM_CLASSES, generator=generator)
    at_target_BC = torch.nn.functional.one_hot(target_B, NUM_CLASSES)
    if kind == "one sample":
        return logits_BC[:1], target_B[:1]
    if kind == "one class":
        return logits_BC, torch.full_like(target_B, NUM_CLASSES - 1)
    if kind == "extreme":
        return 1e4 * logits_BC.sign(), target_B
    if kind == "all correct":
        return logits_BC + 20 * at_target_BC, target_B
    if kind == "all wrong":
        return logits_BC - 20 * at_target_BC, target_B
    if kind == "all correct, extreme":
        return 2e4 * at_target_BC - 1e4, target_B
    if kind == "all wrong, extreme":
        return 1e4 - 2e4 * at_target_BC, target_B
    assert kind == "ordinary"
    return logits_BC, target_B


BATCHES = (
    "ordinary",
    "one sample",
    "one class",
    "extreme",
    "all correct",
    "all wrong",
    "all correct, extreme",
    "all wrong, extreme",
)


def objective_of(
    loss: Spec | None = None, weighting: Spec | None = None, reduction: str = "mean"
) -> Objective:
    config: Mapping[str, Any] = {
        "loss": loss or Spec("ce"),
        "weighting": weighting or Spec("uniform"),
        "reduction": reduction,
    }
    return make_objective(ObjectiveConfig(**config), CLASS_COUNTS)


OBJECTIVES = [
    *((spec, None, "mean") for spec in LOSS_SPECS),
    *(
        (None, spec, reduction)
        for spec in WEIGHTING_SPECS
        for reduction in ("mean", "weighted_mean")
    ),
]


def objective_id(entry: tuple[Spec | None, Spec | None, str]) -> str:
    loss, weighting, reduction = entry
    return " ".join([*(spec_id(spec) for spec in (loss, weighting) if spec), reduction])


NUM_FEATURES = 5


def method_of(name: str) -> Method:
    """A method on a small backbone without batch-norm, the same at every call."""
    torch.manual_seed(3)
    parts: dict[str, Any] = {
        "backbone": nn.Sequential(nn.Linear(4, NUM_FEATURES), nn.Tanh()),
        "head": HEADS["linear"](NUM_FEATURES, NUM_CLASSES),
        "objective": objective_of(weighting=Spec("effective_number"), reduction="weighted_mean"),
        "class_counts": CLASS_COUNTS,
        "num_features": NUM_FEATURES,
    }
    if METHODS[name].needs_representation:
        parts["representation_head"] = HEADS["linear"](NUM_FEATURES, NUM_CLASSES)
        parts["representation_objective"] = objective_of(weighting=Spec("recall"))
    method = METHODS[name](Parts(**parts))
    if method.needs_parent:
        method.load_parent(method_of("one_stage").model_state())
    return method


def images_of(kind: str, method: Method) -> tuple[Tensor, Tensor]:
    """Inputs (B, 4) and targets that make the method's predictions what `kind` says."""
    generator = torch.Generator().manual_seed(11)
    images = torch.randn(8, 4, generator=generator)
    target_B = torch.randint(NUM_CLASSES, (8,), generator=generator)
    if "extreme" in kind:
        images = 1e4 * images.sign()
    with torch.no_grad():
        logits_BC = method.predict(images)
    if "all correct" in kind:
        target_B = logits_BC.argmax(1)
    if "all wrong" in kind:
        target_B = logits_BC.argmin(1)
    if kind == "one class":
        target_B = torch.full_like(target_B, NUM_CLASSES - 1)
    return (images[:1], target_B[:1]) if kind == "one sample" else (images, target_B)
