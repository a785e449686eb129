"""Methods: a network, what one step minimises, and how to predict. B batch, C classes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lt_bench.errors import ConfigError
from lt_bench.progress import Progress
from lt_bench.weighting import Objective

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Parts:
    """What a configuration builds for a method; the representation pair only where it asks."""

    backbone: nn.Module
    head: nn.Module
    objective: Objective
    representation_head: nn.Module | None = None
    representation_objective: Objective | None = None


class Method(nn.Module):
    """The base of all methods: predicts with `head(backbone(images))`.

    A subclass says what one step minimises. `predict` needs `backbone` and `head` alone, so these
    two are what an exported model holds.
    """

    needs_representation: ClassVar[bool] = False
    needs_parent: ClassVar[bool] = False

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.without_decay: list[nn.Parameter] = []
        self.backbone = parts.backbone
        self.head = parts.head
        self.objective = parts.objective
        self.start_bias(parts.head, parts.objective)

    def forward(self, images: Tensor, target_B: Tensor, progress: Progress) -> tuple[Tensor, Terms]:
        """The loss of a batch and what to log: 0-dim values (averaged) or (C,) vectors (last)."""
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

    def model_state(self) -> dict[str, Tensor]:
        """The state `predict` needs: backbone and head, nothing else."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(("backbone.", "head."))
        }


class OneStage(Method):
    """Backbone and head together under one objective."""

    def forward(self, images: Tensor, target_B: Tensor, progress: Progress) -> tuple[Tensor, Terms]:
        loss = self.objective(self.predict(images), target_B, progress)
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

    def forward(self, images: Tensor, target_B: Tensor, progress: Progress) -> tuple[Tensor, Terms]:
        features = self.backbone(images)
        representation = self.representation_objective(
            self.representation_head(features), target_B, progress
        )
        classifier = self.objective(self.head(features.detach()), target_B, progress)
        terms = {"representation": representation.detach(), "classifier": classifier.detach()}
        terms |= _class_weight("representation_class_weight", self.representation_objective)
        terms |= _class_weight("class_weight", self.objective)
        return representation + classifier, terms


def _class_weight(name: str, objective: Objective) -> Terms:
    """The class weights in force, where they change during training."""
    weight_C = objective.weighting.weight_C
    return {name: weight_C} if objective.weighting.is_tracking else {}


METHODS: Mapping[str, type[Method]] = {"one_stage": OneStage, "sdn": SDN}
