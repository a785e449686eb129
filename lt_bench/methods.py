"""Methods: a network, what one step minimises, and how to predict.

Shapes: N images of a split, B batch, C classes, D features.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor, nn

from lt_bench.data.loading import Loader
from lt_bench.data.mixing import Mixed
from lt_bench.errors import ConfigError
from lt_bench.metrics import Tally, balanced_accuracy
from lt_bench.models.heads import AdjustedHead, NearestMeanHead, ScaledHead, TauHead
from lt_bench.progress import Progress
from lt_bench.schema import NonNegative, Range
from lt_bench.weighting import Objective

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Parts:
    """What a configuration builds for a method; the representation pair only where it asks."""

    backbone: nn.Module
    head: nn.Module
    objective: Objective
    class_counts: Tensor
    num_features: int
    representation_head: nn.Module | None = None
    representation_objective: Objective | None = None


class Method(nn.Module):
    """The base of all methods: predicts with `head(backbone(images))`.

    A subclass says what one step minimises. `predict` needs `backbone` and `head` alone, so these
    two are what an exported model holds.
    """

    needs_representation: ClassVar[bool] = False
    needs_parent: ClassVar[bool] = False
    keeps_head: ClassVar[bool] = False  # predicts with the parent's head, changed or not
    needs_head: ClassVar[str | None] = None  # the only one it can work on
    takes_off_prior: ClassVar[bool] = False  # which the parent's loss must not have done
    is_trained: ClassVar[bool] = True  # takes gradient steps

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.without_decay: list[nn.Parameter] = []
        self.backbone = parts.backbone
        self.head = parts.head
        self.objective = parts.objective
        self.start_bias(parts.head, parts.objective)

    def forward(
        self, images: Tensor, target: Tensor | Mixed, progress: Progress
    ) -> tuple[Tensor, Terms]:
        """The loss of a batch and what to log: 0-dim values (averaged) or (C,) vectors (last).

        Args:
            target: labels (B,), or two of them per image where images are mixed.
        """
        raise NotImplementedError

    def predict(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        """The scores that calibration is measured on: the prediction loss's own."""
        probabilities: Tensor = self.objective.loss.probabilities(logits_BC)
        return probabilities

    def start_bias(self, head: nn.Module, objective: Objective) -> None:
        """Give a head the initial bias that its loss asks for, free of weight decay."""
        value = objective.loss.initial_bias()
        if value is None:
            return
        if not isinstance(head.bias, nn.Parameter):
            raise ConfigError(
                'head: has no bias, which this loss starts with; write head = "linear"'
            )
        nn.init.constant_(head.bias, value)
        self.without_decay.append(head.bias)

    def trainable(self) -> Iterable[nn.Parameter]:
        return self.parameters()

    def load_parent(self, state: Mapping[str, Tensor]) -> None:
        """Start from the `model_state` of the parent's run."""
        raise NotImplementedError

    def settle(self, train: Loader, val: Loader | None) -> dict[str, float]:
        """Called once after training, in evaluation mode: what is computed instead of learned.

        Returns what was chosen, for the record.
        """
        return {}

    def model_state(self) -> dict[str, Tensor]:
        """The state `predict` needs: backbone and head, nothing else."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(("backbone.", "head."))
        }

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        """Predict as the method did whose `model_state` this is."""
        self.backbone.load_state_dict(_below("backbone.", state))
        self.head.load_state_dict(_below("head.", state))


class OneStage(Method):
    """Backbone and head together under one objective."""

    def forward(
        self, images: Tensor, target: Tensor | Mixed, progress: Progress
    ) -> tuple[Tensor, Terms]:
        loss = self.objective(self.predict(images), target, progress)
        return loss, _class_weight("class_weight", self.objective)


class SDN(Method):
    """Simple Decoupled Network: two heads on one backbone, trained in one stage.

    The representation head's objective alone teaches the backbone; the classifier head learns
    from detached features with an objective of its own, and alone predicts. Source: Recall Loss
    for Imbalanced Image Classification and Semantic Segmentation (ICLR 2021 submission), which
    leaves open which loss stands on which head; both are configuration here.
    """

    needs_representation = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        assert parts.representation_head is not None
        assert parts.representation_objective is not None
        self.representation_head = parts.representation_head
        self.representation_objective = parts.representation_objective
        self.start_bias(self.representation_head, self.representation_objective)

    def forward(
        self, images: Tensor, target: Tensor | Mixed, progress: Progress
    ) -> tuple[Tensor, Terms]:
        features = self.backbone(images)
        representation = self.representation_objective(
            self.representation_head(features), target, progress
        )
        classifier = self.objective(self.head(features.detach()), target, progress)
        terms = {"representation": representation.detach(), "classifier": classifier.detach()}
        terms |= _class_weight("representation_class_weight", self.representation_objective)
        terms |= _class_weight("class_weight", self.objective)
        return representation + classifier, terms


class _SecondStage(Method):
    """Starts from a finished run and keeps its backbone."""

    needs_parent = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()  # the batch-norm statistics are part of what stays fixed
        return self

    def forward(
        self, images: Tensor, target: Tensor | Mixed, progress: Progress
    ) -> tuple[Tensor, Terms]:
        with torch.no_grad():
            features = self.backbone(images)
        return self.objective(self.head(features), target, progress), {}

    def trainable(self) -> Iterable[nn.Parameter]:
        return self.head.parameters()

    def load_parent(self, state: Mapping[str, Tensor]) -> None:
        self.backbone.load_state_dict(_below("backbone.", state))

    def features(self, loader: Loader) -> Tensor:
        """The backbone's features of a split in list order, without augmentation."""
        return torch.cat([self.backbone(images).float() for images, _ in loader.plain()])


class RetrainHead(_SecondStage):
    """cRT: a new head on the parent's backbone (Kang et al., 2020, section 4.1).

    Args:
        update_statistics: let the frozen backbone's batch-norm statistics follow the sampler, as
            the published code does.
    """

    def __init__(self, parts: Parts, *, update_statistics: bool = False) -> None:
        super().__init__(parts)
        self.update_statistics = update_statistics

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.train(mode and self.update_statistics)
        return self


class _WrappedHead(_SecondStage):
    """Keeps the parent's head inside one that changes its logits."""

    keeps_head = True
    head: ScaledHead | TauHead | AdjustedHead

    def load_parent(self, state: Mapping[str, Tensor]) -> None:
        super().load_parent(state)
        self.head.head.load_state_dict(_below("head.", state))


class RescaleHead(_WrappedHead):
    """LWS: one learned scale per class on the parent's head (Kang et al., 2020, section 4.3)."""

    head: ScaledHead

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.head = ScaledHead(parts.head.requires_grad_(False), len(parts.class_counts))

    def trainable(self) -> Iterable[nn.Parameter]:
        return [self.head.scale_C]


class TauNorm(_WrappedHead):
    """tau-norm: the parent's weights, each divided by its norm to the power tau; no training.

    Kang et al., 2020, section 4.2. The bias is dropped, as in the published code.

    Args:
        tau: 0 keeps the weights, 1 makes them unit vectors. Left out, it is the one of 0, 0.1,
            ..., 2 with the best balanced accuracy on the validation split, or 1 without one.
    """

    is_trained = False
    needs_head = "linear"  # the weights of cosines have unit length already
    head: TauHead

    def __init__(
        self, parts: Parts, *, tau: Annotated[float, Range(low=0, high=2)] | None = None
    ) -> None:
        super().__init__(parts)
        assert isinstance(parts.head, nn.Linear)
        self.is_chosen_here = tau is None
        self.head = TauHead(parts.head, 1.0 if tau is None else tau)

    def settle(self, train: Loader, val: Loader | None) -> dict[str, float]:
        if self.is_chosen_here and val is not None:
            features_ND, labels_N = self.features(val), val.labels.cpu().numpy()
            scores = []
            for step in range(21):
                self.head.tau.fill_(step / 10)
                predicted_N = self.head(features_ND).argmax(dim=1).cpu().numpy()
                tally = Tally.of(labels_N, predicted_N, len(self.head.head.weight))
                scores.append((balanced_accuracy(tally), -step))
            self.head.tau.fill_(-max(scores)[1] / 10)
        return {"tau": round(float(self.head.tau), 6)}


class AdjustLogits(_WrappedHead):
    """Post-hoc logit adjustment: the parent's logits less tau times the log prior; no training.

    Menon et al., 2021, eq. 9.
    """

    is_trained = False
    needs_head = "linear"  # from cosines no log prior can be taken
    takes_off_prior = True

    def __init__(self, parts: Parts, *, tau: NonNegative = 1.0) -> None:
        super().__init__(parts)
        self.head = AdjustedHead(parts.head, parts.class_counts, tau)


class NearestMean(_SecondStage):
    """NCM: the nearest class mean of the parent's features; no training (Kang et al., section 4).

    Features are centred by their training mean and scaled to unit length first ("cl2n" in the
    published code); the means are over the training images as they are, without augmentation.
    """

    is_trained = False
    head: NearestMeanHead

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.head = NearestMeanHead(parts.num_features, len(parts.class_counts))

    def settle(self, train: Loader, val: Loader | None) -> dict[str, float]:
        self.head.fit(self.features(train), train.labels)
        return {}


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)}


def _class_weight(name: str, objective: Objective) -> Terms:
    """The class weights in force, where they change during training."""
    weight_C = objective.weighting.weight_C
    return {name: weight_C} if objective.weighting.is_tracking else {}


METHODS: Mapping[str, type[Method]] = {
    "one_stage": OneStage,
    "sdn": SDN,
    "retrain_head": RetrainHead,
    "rescale_head": RescaleHead,
    "tau_norm": TauNorm,
    "nearest_mean": NearestMean,
    "adjust_logits": AdjustLogits,
}
