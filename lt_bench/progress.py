"""The clock: whatever changes during training is a pure function of Progress."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; steps and epochs count from 0.

    Inside a compiled step `step` is a 0-dim device tensor and stands for the fraction alone, of one
    step in all, so that `fraction` is a tensor and right to the last bit. Losses and weightings
    therefore mix two values as `before * (1 - on) + after * on` with
    `on = 1.0 * (progress.fraction >= start)`, and never branch on it.
    """

    step: int = 0
    total_steps: int = 1
    steps_per_epoch: int = 1

    @property
    def fraction(self) -> float:
        """Share of the run that is done: 0.0 at the first step, below 1.0 at the last."""
        return self.step / self.total_steps

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def num_epochs(self) -> int:
        return self.total_steps // self.steps_per_epoch


START = Progress()  # where a loss stands that is called as a plain criterion
