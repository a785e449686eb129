"""Backbones of other libraries, by name."""

from typing import cast

from torch import nn

from lt_bench.errors import ConfigError


def timm(*, model: str, pretrained: bool = False) -> nn.Module:
    """Any timm model without its classifier; `num_features` is timm's own attribute.

    Raises:
        ConfigError: timm has no model of this name.
    """
    import timm as library  # imported where used: a second on the way to every other command

    if not library.is_model(model):
        near = library.list_models(f"*{model}*")[:5]
        hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
        raise ConfigError(f"model: timm has no {model!r}{hint}")
    return cast(nn.Module, library.create_model(model, pretrained=pretrained, num_classes=0))
