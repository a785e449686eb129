"""`--compile`: forward pass and objectives of a method as one graph, the same for the whole run."""

import functools
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lt_bench.data.mixing import Mixed
from lt_bench.errors import RunError
from lt_bench.progress import Progress

BACKEND = "inductor"


class Compiled:
    """Calls a method through torch.compile; the method itself stays as it is.

    The clock and a mix's share enter as tensors, so that no step compiles anew. A batch of another
    size, the last one of each epoch, is not worth a graph of its own and goes to the method.

    Args:
        adds_up: gradients of several steps are summed before the parameters move.
    """

    def __init__(
        self, method: nn.Module, device: torch.device, batch_size: int, *, adds_up: bool
    ) -> None:
        self.method = method
        self.device = device
        self.batch_size = batch_size
        # the compiler keeps few graphs of a function; those of earlier runs would count
        torch.compiler.reset()
        options = {
            "fallback_random": True,  # the losses draw what they draw without compilation
            # replayed graphs write gradients where the last ones lie, also those to be added to
            "triton.cudagraphs": device.type == "cuda" and not adds_up,
        }
        self.graph = torch.compile(
            method.forward,
            fullgraph=True,
            dynamic=False,
            backend=BACKEND,
            options=cast(Any, options) if BACKEND == "inductor" else None,
        )

    def __call__(self, images: Tensor, target: Tensor | Mixed, progress: Progress) -> Any:
        """What the method returns.

        Raises:
            RunError: the method has a part that cannot be compiled.
        """
        if len(images) != self.batch_size:
            return self.method(images, target, progress)
        from torch._dynamo import exc  # slow to import, needed only here

        # the quotient of the host, since a compiled one may be another in the last bit
        clock = torch.full((), progress.fraction, dtype=torch.float64, device=self.device)
        if isinstance(target, Mixed):
            share = torch.full((), target.share, device=self.device)
            target = replace(target, share=cast(float, share))
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            at = replace(progress, step=cast(int, clock), total_steps=1)
            return self.graph(images, target, at)
        except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit) as error:
            why = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
            raise RunError(f"--compile: {why}; leave the flag out for this method") from error


compiled = functools.lru_cache(maxsize=1)(Compiled)  # the last one, which may be called for again
