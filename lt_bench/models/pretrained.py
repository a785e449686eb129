"""Backbones of other libraries, by name."""

from typing import cast

from torch import nn

from lt_bench.errors import ConfigError


def timm(*, model: str, pretrained: bool = False) -> nn.Module:
    """Any timm model without its classifier; `num_features` is what then comes out.

    Raises:
        ConfigError: timm has no model of this name.
    """
    import timm as library  # imported where used: a second on the way to every other command

    if not library.is_model(model):
        near = library.list_models(f"*{model}*")[:5]
        hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
        raise ConfigError(f"model: timm has no {model!r}{hint}")
    try:
        found = library.create_model(model, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise ConfigError(
            f"pretrained: the weights of {model!r} could not be had: {error}; run once with a "
            "network, which keeps them, or write pretrained = false"
        ) from error
    # some have a layer between the features that timm counts and the classifier
    found.num_features = getattr(found, "head_hidden_size", None) or found.num_features
    return cast(nn.Module, found)


def resnet10() -> nn.Module:
    """ResNet-10 (Liu et al., 2019): one basic block a stage, 512 features; timm has none."""
    from timm.models.resnet import BasicBlock, ResNet

    return cast(nn.Module, ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0))
