"""How methods, datasets and backbones are called in tables, figures and captions."""

from lt_bench.config import RunConfig
from lt_bench.schema import Spec

DATASETS_IN_PROSE = {
    "digits_lt": "Digits-LT",
    "cifar10_lt": "CIFAR-10-LT",
    "cifar100_lt": "CIFAR-100-LT",
    "imagenet_lt": "ImageNet-LT",
    "places_lt": "Places-LT",
    "inat2018": "iNaturalist 2018",
}
METHODS_IN_PROSE = {
    "ce": "CE",
    "weighted_ce": "Weighted CE",
    "focal": "Focal",
    "cb": "CB (batch mean)",
    "cb_weighted_mean": "CB (weighted mean)",
    "cb_sigmoid": "CB sigmoid",
    "cb_focal": "CB focal",
    "label_smoothing": "Label smoothing",
    "mixup": "Mixup",
    "ldam": "LDAM",
    "ldam_drw": "LDAM-DRW",
    "ce_drw": "CE-DRW",
    "ce_drs": "CE-DRS",
    "class_balanced_sampling": "Class-balanced sampling",
    "square_root_sampling": "Square-root sampling",
    "progressive_sampling": "Progressive sampling",
    "eql": "EQL",
    "seql": "SEQL",
    "balanced_softmax": "Balanced softmax",
    "logit_adjusted": "Logit adjustment",
    "logit_adjusted_post_hoc": "Logit adjustment (post-hoc)",
    "vs": "VS",
    "lade": "LADE",
    "seesaw": "Seesaw",
    "label_aware_smoothing": "Label-aware smoothing",
    "dice": "Dice",
    "dice_ce": "Dice + CE",
    "max_pooled": "Loss max-pooling",
    "loss_scheduling": "Loss scheduling",
    "loss_scheduling_alternating": "Loss scheduling (alternating)",
    "recall": "Recall",
    "recall_official_batch": "Recall (official batch)",
    "recall_official_ema": "Recall (official EMA)",
    "recall_paper_batch": "Recall (paper batch)",
    "recall_present_ema": "Recall (present EMA)",
    "crt": "cRT",
    "lws": "LWS",
    "ncm": "NCM",
    "tau_norm": "τ-norm",
}
PARTS_IN_PROSE = {
    "ce": "CE",
    "ldam": "LDAM",
    "seql": "SEQL",
    "balanced_softmax": "balanced softmax",
    "effective_number": "CB",
    "inverse_frequency": "inverse frequency",
}


def method_name(config: RunConfig) -> str:
    """A method as tables and figures call it; an overlay of one's own keeps its name."""
    if config.method.name == "sdn" and config.representation:
        heads = (config.representation.objective, config.objective)
        rep, cls = (_objective_name(o.loss, o.weighting) for o in heads)
        return f"SDN (rep: {rep}, cls: {cls})"
    return METHODS_IN_PROSE.get(config.overlay, config.names[1])


def dataset_name(config: RunConfig) -> str:
    """A dataset in prose, with its imbalance factor where the recipe sets one."""
    name = DATASETS_IN_PROSE.get(config.data.name, config.data.name)
    factor = config.data.options.get("imbalance_factor")
    return f"{name} (imbalance factor {factor:g})" if isinstance(factor, int | float) else name


def backbone_name(spec: Spec) -> str:
    """A backbone in prose; a library's goes by its model's name."""
    if spec.name == "cifar_resnet" and "depth" in spec.options:
        return f"ResNet-{spec.options['depth']}"
    if spec.name == "small_conv":
        return "Small convolutional network"
    return str(spec.options.get("model", spec.name))


def _objective_name(loss: Spec, weighting: Spec) -> str:
    """What an objective is called: its weighting over plain cross-entropy, or both."""
    loss_name = PARTS_IN_PROSE.get(loss.name, loss.name)
    if weighting.name == "uniform":
        return loss_name
    weighting_name = PARTS_IN_PROSE.get(weighting.name, weighting.name)
    deferred = "deferred " if weighting.options.get("start") else ""
    return f"{deferred}{weighting_name}" + ("" if loss.name == "ce" else f" {loss_name}")
