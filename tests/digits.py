"""What is trained on the digits, in tests of the loop alone: no folder and no record."""

import torch

from lt_bench.assembly import load_data, make_loader, make_method, prepare
from lt_bench.config import RunConfig
from lt_bench.data.loading import Loader
from lt_bench.methods import Method
from lt_bench.runtime import Runtime

CPU = Runtime(torch.device("cpu"), "fp32")


def ready(overlay: str, *overrides: str, where: Runtime = CPU) -> tuple[RunConfig, Method, Loader]:
    """A configuration, its method as it begins, and its training batches."""
    config = prepare("digits_lt", overlay, overrides)
    data = load_data(config.data, None)
    return config, make_method(config, data), make_loader(data, data.train, config, where)
