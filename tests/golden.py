"""Runs a file of golden cases against the product: python -m tests.golden FILE [--only NAME,...]

Each entry of KINDS translates one kind of case into calls of product code and returns what came
out under the names the file expects; it holds no formula of its own. A part that is not there
fails its own cases only.
"""

import argparse
import contextlib
import fractions
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lt_bench import losses
from lt_bench.progress import Progress
from lt_bench.schema import Spec
from lt_bench.weighting import EffectiveNumber, Objective, Recall, Uniform, reduce

Case = Mapping[str, Any]
Results = Mapping[str, Any]

TOLERANCE = {
    "float64": {"rtol": 1e-9, "atol": 1e-11},
    "float32": {"rtol": 2e-5, "atol": 2e-6},
}
WEIGHTED_MEAN = ("sum_of_weights", "sum(w*ce)/sum(w)")


def failures(
    case: Case, dtype: str = "float64", tolerance: Mapping[str, float] | None = None
) -> list[str]:
    """What is wrong with one case, a line each; empty when it passes."""
    if case["loss"] not in KINDS:
        return [f"unknown loss {case['loss']!r}"]
    try:
        with default_dtype(getattr(torch, dtype)):
            got = KINDS[case["loss"]](case)
    except Exception as error:  # whatever a case runs into is that case's failure
        return [f"{type(error).__name__}: {error}"]
    close = tolerance or TOLERANCE[dtype]
    found = list(_differences(_expected(case), got, close, ""))
    for i, step in enumerate(case.get("steps", ())):
        found += _differences(step["expected"], got["steps"][i], close, f"steps[{i}].")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", metavar="NAME,...", help="losses, as the cases name them")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float64")
    options = parser.parse_args(arguments)
    try:
        golden = json.loads(options.file.read_text(encoding="utf-8"))
        cases = golden["cases"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        parser.error(f"{options.file}: not a file of golden cases: {error!r}")
    only = options.only.split(",") if options.only else None
    tolerance = golden.get("meta", {}).get("tolerance", {}).get(options.dtype)
    passed = failed = 0
    for case in cases:
        if only is not None and case["loss"] not in only:
            continue
        found = failures(case, options.dtype, tolerance)
        failed += bool(found)
        passed += not found
        if found:
            print(f"{case['id']}: {'; '.join(found)}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Losses compute, and register their vectors, in torch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _expected(case: Case) -> Mapping[str, Any]:
    """What to implement: where the published code is wrong, the value beside it."""
    return case.get("recommended") or case["expected"].get("paper_exact") or case["expected"]


def _differences(
    expected: Any, got: Any, tolerance: Mapping[str, float], place: str
) -> Iterator[str]:
    """Where `got` departs from what is expected; nan equals nan."""
    if isinstance(expected, Mapping):
        for key, value in expected.items():
            if key not in got:
                yield f"{place}{key}: not computed"
            else:
                yield from _differences(value, got[key], tolerance, f"{place}{key}")
        return
    if got is None:
        # an empty shot group is published as 0 or nan, an empty bin as null
        if expected not in (None, 0, "nan"):
            yield f"{place}: expected {expected}, got None"
        return
    if isinstance(expected, list) and None in expected:
        for i, value in enumerate(expected):
            yield from _differences(value, got[i], tolerance, f"{place}[{i}]")
        return
    if isinstance(expected, str) and expected not in ("nan", "inf", "-inf", "zeros"):
        if expected != got:
            yield f"{place}: expected {expected}, got {got}"
        return
    got = np.asarray(got.detach() if isinstance(got, Tensor) else got, dtype=np.float64)
    wanted = np.zeros_like(got) if expected == "zeros" else np.asarray(expected, dtype=np.float64)
    if wanted.shape != got.shape:
        yield f"{place}: expected shape {wanted.shape}, got {got.shape}"
    elif not np.allclose(got, wanted, **tolerance, equal_nan=True):
        first = np.flatnonzero(~np.isclose(got, wanted, **tolerance, equal_nan=True))[0]
        yield f"{place}: expected {wanted.flat[first]}, got {got.flat[first]} (element {first})"


def _counts(case: Case) -> Tensor:
    """The class counts, or frequencies in their place; equal where the case gives neither."""
    given = case.get("hparams", {})
    counts = case.get("class_counts") or given.get("base_probs") or given.get("freq")
    if counts is None:
        counts = [1] * np.shape(case["steps"][0]["logits"] if "steps" in case else case["logits"])[
            1
        ]
    return torch.tensor(counts)


def _batch(case: Case) -> tuple[Tensor, Tensor]:
    # parsed as float64 whatever the default: JSON's digits are
    logits = torch.tensor(_numbers(case["logits"]), dtype=torch.float64)
    return logits.to(torch.get_default_dtype()).requires_grad_(), torch.tensor(case["labels"])


def _numbers(values: Any) -> np.ndarray:
    """Nested lists of numbers, where the strings nan, inf and -inf stand for these values."""
    return np.asarray(values, dtype=np.float64)


def _vector(values: Sequence[float]) -> Tensor:
    return torch.tensor(_numbers(values), dtype=torch.float64).to(torch.get_default_dtype())


def _fixed(case: Case, weight: Sequence[float] | None) -> Uniform:
    """The class weights that the case gives; 1 where it gives none."""
    weighting = Uniform(_counts(case))
    if weight is not None:
        weighting.weight_C.copy_(_vector(weight))
    return weighting


def _objective(
    case: Case, loss: nn.Module, weighting: nn.Module | None = None, reduction: str = "mean"
) -> dict[str, Any]:
    """Value and gradient of one batch under an Objective."""
    ignore_index = case.get("hparams", {}).get("ignore_index")
    weighting = weighting or _fixed(case, None)
    objective = Objective(loss, weighting, reduction, ignore_index=ignore_index)
    logits, target = _batch(case)
    value = objective(logits, target)
    value.backward()
    return {"loss": value, "grad": logits.grad}


def _cross_entropy(case: Case) -> Results:
    weight = case["hparams"].get("weight")
    # torch's weighted mean divides by the picked weights
    reduction = "mean" if weight is None else "weighted_mean"
    return _objective(case, losses.CrossEntropy(_counts(case)), _fixed(case, weight), reduction)


def _focal_weight_inside(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.Focal(_counts(case), gamma=given["gamma"], exponent_beta=given.get("cb_beta"))
    if given.get("weight") is not None:
        loss.weight_C.copy_(_vector(given["weight"]))
    return _objective(case, loss)


def _focal_weight_outside(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.Focal(_counts(case), gamma=given["gamma"])
    return _objective(case, loss, _fixed(case, given["weight"]))


def _class_balanced_weights(case: Case) -> Results:
    weight_C = EffectiveNumber(_counts(case), beta=case["hparams"]["beta"]).weight_C
    return {"weights": weight_C, "sum": weight_C.sum()}


def _class_balanced(case: Case, loss: nn.Module) -> Results:
    given = case["hparams"]
    reduction = "weighted_mean" if given.get("normalise") in WEIGHTED_MEAN else "mean"
    weighting = EffectiveNumber(_counts(case), beta=given["beta"])
    return _objective(case, loss, weighting, reduction)


def _ldam(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.LDAM(_counts(case), max_margin=given["max_m"], scale=given["s"])
    weighting = _fixed(case, given.get("weight"))
    return _objective(case, loss, weighting, "weighted_mean") | {"margins": loss.margin_C}


def _deferred_weights(case: Case) -> Results:
    given = case["hparams"]
    total = _power_of_two(max(*given["epochs"], given["switch_epoch"]))
    weighting = EffectiveNumber(
        _counts(case), beta=given["beta"], start=given["switch_epoch"] / total
    )
    logits, target = torch.zeros(1, len(weighting.weight_C)), torch.tensor([0])
    return {
        "weights": torch.stack(
            [weighting(logits, target, Progress(epoch, total)) for epoch in given["epochs"]]
        )
    }


def _ldam_schedule(case: Case) -> Results:
    from lt_bench.optim import SCHEDULES

    given = case["hparams"]
    options = {"warmup_epochs": 5, "milestones": (0.8, 0.9), "factors": (0.01, 0.0001)}
    factors = [SCHEDULES["step"](Progress(epoch, 200), **options) for epoch in given["epochs"]]
    return {"lr": [given["base_lr"] * factor for factor in factors]}


def _normed_linear(case: Case) -> Results:
    from lt_bench.models.heads import HEADS

    features, weight = _vector(case["features"]).requires_grad_(), _vector(case["weight"]).T
    head = HEADS["cosine"](weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
    cosines = head(features)
    cosines.sum().backward()
    return {
        "out": cosines,
        "grad_feat_of_sum": features.grad,
        "grad_weight_of_sum": head.weight.grad.T,
    }


def _recall(case: Case, weighting: Recall) -> dict[str, Any]:
    reduction = "mean"
    if case["hparams"].get("reduction") in WEIGHTED_MEAN:
        reduction = "weighted_mean"
    result = _objective(case, losses.CrossEntropy(_counts(case)), weighting, reduction)
    result |= dict.fromkeys(
        ("weights", "weights_used", "weights_after"), weighting.weight_C.clone()
    )
    return result | {
        "N_after": weighting.count_C.clone(),
        "FN_after": weighting.false_negatives_C.clone(),
        "seen_after": weighting.is_seen_C.clone(),
    }


def _recall_steps(case: Case, weighting: Recall) -> Results:
    steps = [{"hparams": case["hparams"], **step} for step in case["steps"]]
    return {"steps": [_recall(step, weighting) for step in steps]}


def _recall_official_ema(case: Case) -> Results:
    memory = 1 - case["hparams"]["alpha_new"]
    weighting = Recall(_counts(case), estimate="official_ema", memory=memory)
    before = case["state"]["weights_before"]
    if before is not None:
        weighting.weight_C.copy_(_vector(before))
        weighting.is_seen_C.fill_(True)
    return _recall_steps(case, weighting)


def _recall_decayed_counts(case: Case) -> Results:
    memory, state = case["hparams"]["rho"], case["state"]
    weighting = Recall(_counts(case), estimate="decayed_counts", memory=memory)
    weighting.count_C.copy_(_vector(state["N"]))
    weighting.false_negatives_C.copy_(_vector(state["FN"]))
    return _recall_steps(case, weighting)


def _recall_present_ema(case: Case) -> Results:
    given, state = case["hparams"], case["state"]
    weighting = Recall(
        _counts(case),
        estimate="present_ema",
        memory=1 - given["alpha_new"],
        floor=given.get("floor"),
    )
    weighting.weight_C.copy_(_vector(state["weights"]))
    weighting.is_seen_C.copy_(_vector(state["seen"]))
    return _recall_steps(case, weighting)


def _equalization(case: Case) -> Results:
    counts = _counts(case)
    # frequencies are shares of all images, which the case may count otherwise than by their sum
    threshold = case["hparams"]["lambda"] * case.get("total_images", int(counts.sum()))
    loss = losses.Equalization(counts, threshold=threshold / int(counts.sum()), background=True)
    return _alone(case, loss) | {"tail": loss.is_tail_C}


def _softmax_equalization(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.SoftmaxEqualization(
        _counts(case), gamma=given["gamma"], threshold=given["lambda"]
    )
    result = _alone(case, loss, uniform_BC=_vector(case["state"]["uniform"]))
    is_tail_C = torch.zeros(len(_counts(case))).index_fill(0, loss.tail_T, 1)
    return result | {"tail": is_tail_C}


def _alone(case: Case, loss: nn.Module, **options: Any) -> dict[str, Any]:
    """Value and gradient of a loss that is called with more than an Objective passes on."""
    logits, target = _batch(case)
    loss_B = loss(logits, target, **options)
    value = reduce(loss_B, torch.ones_like(loss_B), "mean")
    value.backward()
    return {"loss": value, "grad": logits.grad}


def _logit_adjustment(case: Case) -> Results:
    from lt_bench.models.heads import AdjustedHead

    tau = case["hparams"]["tau"]
    logits, _ = _batch(case)
    posthoc = AdjustedHead(nn.Identity(), _counts(case), tau)(logits)
    return _objective(case, losses.LogitAdjusted(_counts(case), tau=tau)) | {
        "posthoc_logits": posthoc,
        "posthoc_argmax": posthoc.argmax(1),
    }


def _dice(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.Dice(
        _counts(case), smooth=given["smooth"], eps=given["eps"], layout=given["layout"]
    )
    if given.get("weight") is not None:
        loss.weight_C.copy_(_vector(given["weight"]))
    return _objective(case, loss)


def _max_pooled(case: Case) -> Results:
    given = case["hparams"]
    counts = _counts(case)
    loss = losses.MaxPooled(counts, p=given["p"], m_over_n=given["m_over_n"])
    result = _objective(case, loss)
    logits, target = _batch(case)
    num_samples = len(target)
    return {
        "weights": loss.sample_weight(losses.CrossEntropy(counts)(logits, target).detach()),
        "sum_w_l": result["loss"],
        # the published mean divides by n once more
        "loss_mean_of_w_times_l": result["loss"] / num_samples,
        "grad": result["grad"] / num_samples,
    }


def _loss_schedule(case: Case) -> Results:
    given = case["hparams"]
    total = _power_of_two(max(*given["iterations"], given["e"]))
    ramp = losses.Ramp(
        torch.ones(2, dtype=torch.int64),
        shape=given["schedule"],
        begin=given["s"] / total,
        end=given["e"] / total,
    )
    share = torch.stack([ramp.share_of_second(Progress(i, total)) for i in given["iterations"]])
    return {"w_ce": share, "w_other": 1 - share}


def _power_of_two(most: float) -> int:
    """A run of this many steps, of which every step is an exact fraction."""
    return 2 ** math.ceil(math.log2(most + 1))


def _compound(case: Case) -> Results:
    given = case["hparams"]
    parts = (Spec("dice", {"layout": given["layout"]}), Spec("ce"))
    factors = (given["w_dice"], given["w_ce"])
    return _objective(case, losses.Sum(_counts(case), parts=parts, factors=factors))


def _cifar_lt(case: Case) -> Results:
    from lt_bench.data.profiles import class_counts, ldam_positions

    given = case["hparams"]
    available = 50_000 // given["classes"]
    counts = class_counts(
        given["classes"],
        available,
        imbalance_factor=float(1 / fractions.Fraction(given["imb_factor"])),
        imbalance_type={"exp": "exponential"}.get(given["imb_type"], given["imb_type"]),
    )
    positions = ldam_positions(counts, given["rand_number"], available=available)
    together = np.concatenate(positions).astype("<i8")
    return {
        "counts": counts,
        "total": sum(counts),
        "max": max(counts),
        "min": min(counts),
        "positions_sha256": hashlib.sha256(together.tobytes()).hexdigest(),
        "first_positions_class0": positions[0][:8],
        "positions_last_class": positions[-1][:8],
    }


def _vector_scaling(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.VectorScaling(_counts(case), gamma=given["gamma"], tau=given["tau"])
    return _objective(case, loss)


def _lade_regulariser(case: Case) -> Results:
    loss = losses.LADE(_counts(case), penalty=case["hparams"]["remine_lambda"])
    logits, target = _batch(case)
    value = loss.regulariser(logits, target)
    value.backward()
    return {"loss": value, "grad": logits.grad}


def _label_aware_smoothing(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.LabelAwareSmoothing(
        _counts(case),
        at_max=given["smooth_head"],
        at_min=given["smooth_tail"],
        shape=given["shape"],
    )
    return _objective(case, loss)


def _seesaw(case: Case) -> Results:
    given = case["hparams"]
    loss = losses.Seesaw(_counts(case), p=given["p"], q=given["q"], eps=given["eps"])
    loss.count_C.copy_(_vector(case["state"]["cum_samples_before"]))
    return _objective(case, loss) | {"cum_samples_after": loss.count_C}


def _tau_norm(case: Case) -> Results:
    from lt_bench.models.heads import LinearHead, TauHead

    features, weight = _vector(case["features"]), _vector(case["weight"])
    head = LinearHead(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.fill_(1.0)  # dropped by tau-norm
    return {"logits": {str(tau): TauHead(head, tau)(features) for tau in case["hparams"]["taus"]}}


def _shot_accuracy(case: Case) -> Results:
    from lt_bench.metrics import Tally, balanced_accuracy, class_accuracy, shot_accuracy, top1

    counts = case["train_counts"]
    tally = Tally.of(case["labels"], case["preds"], len(counts))
    return {
        "decoupling": shot_accuracy(tally, counts) | {"per_class": class_accuracy(tally)},
        # at least 100, at most 20
        "oltr": shot_accuracy(tally, counts, many=99, few=21),
        "micro_top1": top1(tally),
        "macro_top1": balanced_accuracy(tally),
    }


def _calibration(case: Case) -> Results:
    from lt_bench import metrics
    from lt_bench.evaluate import BinSums

    probabilities = _numbers(case["probabilities"])
    labels, predicted = case["labels"], probabilities.argmax(1)
    tally = metrics.Tally.of(labels, predicted, probabilities.shape[1])
    sums = BinSums(case["hparams"]["bins"])
    is_label = np.arange(probabilities.shape[1]) == np.asarray(labels)[:, None]
    sums.add(*(torch.from_numpy(array.ravel()) for array in (probabilities, is_label)))
    bins = sums.read()
    scores = {
        "cal_fixed_N": metrics.calibration_score(bins),
        "cal_nonempty_N": metrics.calibration_score(bins, nonempty=True),
    }
    cal = scores[case["hparams"]["S_uses"]]
    accuracy, recall = metrics.top1(tally), metrics.balanced_accuracy(tally)
    return scores | {
        "bins": [
            [count, correct / count, confidence / count] if count else None
            for count, correct, confidence in zip(
                bins.count, bins.correct, bins.confidence, strict=True
            )
        ],
        "acc": accuracy,
        "mean_recall": recall,
        "macro_f1": metrics.macro_f1(tally, zero_division=math.nan),
        "S_acc": metrics.harmonic_score(cal, accuracy, published=True),
        "S_rec": metrics.harmonic_score(cal, recall, published=True),
    }


KINDS: dict[str, Callable[[Case], Results]] = {
    "ce": _cross_entropy,
    "focal_softmax": _focal_weight_inside,
    "focal_softmax_weight_in_exponent": _focal_weight_inside,
    "focal_softmax_weighted": _focal_weight_outside,
    "cb_weights": _class_balanced_weights,
    "cb_softmax": lambda case: _class_balanced(case, losses.CrossEntropy(_counts(case))),
    "cb_sigmoid": lambda case: _class_balanced(case, losses.SigmoidCrossEntropy(_counts(case))),
    "cb_focal": lambda case: _class_balanced(
        case, losses.SigmoidFocal(_counts(case), gamma=case["hparams"]["gamma"])
    ),
    "ldam": _ldam,
    "drw_weights": _deferred_weights,
    "lr_ldam_cifar": _ldam_schedule,
    "normed_linear": _normed_linear,
    "recall_official_batch": lambda case: _recall(
        case, Recall(_counts(case), estimate="official_batch")
    ),
    "recall_paper_batch": lambda case: _recall(case, Recall(_counts(case), estimate="paper_batch")),
    "recall_official_ema": _recall_official_ema,
    "recall_decayed_counts": _recall_decayed_counts,
    "recall_present_ema": _recall_present_ema,
    "eql_sigmoid": _equalization,
    "seql": _softmax_equalization,
    "balanced_softmax": lambda case: _objective(case, losses.BalancedSoftmax(_counts(case))),
    "logit_adjustment": _logit_adjustment,
    "dice": _dice,
    "maxpool_ce": _max_pooled,
    "loss_schedule": _loss_schedule,
    "compound_dice_ce": _compound,
    "cal_score": _calibration,
    "shot_acc": _shot_accuracy,
    "cifar_lt": _cifar_lt,
    "vs_loss": _vector_scaling,
    "lade_regulariser": _lade_regulariser,
    "label_aware_smoothing": _label_aware_smoothing,
    "seesaw": _seesaw,
    "tau_norm": _tau_norm,
}

if __name__ == "__main__":
    sys.exit(main())
