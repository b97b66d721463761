"""All that determines a training run."""

import math
from dataclasses import dataclass

from gdiff.dataset import DatasetSpec
from gdiff.errors import require
from gdiff.network.base import NetworkSpec
from gdiff.process.base import ProcessSpec
from gdiff.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a network is trained.

    Attributes:
        steps: of gradient descent.
        batch_size: noised points in a step.
        learning_rate: of Adam, at its largest: after the warm-up, before a decay to 0.
        warmup: steps in which it grows from 0.
        average: width, relative to all steps, of the average over steps that the network is in
            the end (Karras et al., arXiv 2312.02696); 0 takes the last step as it is.
        flips: whether images are mirrored, left to right, in every other case.
        held_out: share of the rows that are kept aside to judge the network by, where the data
            have no test points of their own; 0 trains on all rows, and judges by none.
        sigma_max: the largest noise level; None does not bound them.
        horizon: the same as a time of the process.
        looks: how often the network is judged and samples are drawn, on the way and at the end.
    """

    steps: int = 700
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: int = 100
    average: float = 0.1
    flips: bool = False
    held_out: float = 0.1
    sigma_max: float | None = None
    horizon: float | None = None
    looks: int = 4

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "looks"):
            value = getattr(self, key)
            require(value >= 1, f"{key}={value} must be at least 1")
        rate = self.learning_rate
        require(0 < rate < math.inf, f"learning_rate={rate} must be positive and finite")
        require(self.warmup >= 0, f"warmup={self.warmup} must not be negative")
        require(0 <= self.average <= 0.25, f"average={self.average} must be between 0 and 0.25")
        require(0 <= self.held_out < 1, f"held_out={self.held_out} must be at least 0, below 1")
        for key in ("sigma_max", "horizon"):
            value = getattr(self, key)
            require(
                value is None or 0 < value < math.inf,
                f"{key}={value} must be positive and finite, or null",
            )
        require(
            self.sigma_max is None or self.horizon is None,
            f"horizon={self.horizon} takes the place of sigma_max: leave out one of them",
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training run.

    Attributes:
        dataset, network, process, runtime: the parts.
        train: how the network is trained.
        seed: of the network, the noise and the order of the rows, 0 … 2³² - 1.
    """

    dataset: DatasetSpec
    network: NetworkSpec
    process: ProcessSpec
    runtime: Runtime
    train: TrainSpec
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed={self.seed} must be between 0 and 2^32 - 1")
        require(
            not self.runtime.x64,
            "runtime.x64=true: networks are trained in single precision; leave it out",
        )
        _ = self.sigma_max

    @property
    def sigma_max(self) -> float | None:
        """The largest noise level, if they are bounded.

        Raises:
            UserError: the process has no such time.
        """
        time = self.train.horizon
        if time is None:
            return self.train.sigma_max
        low, high = self.process.time_range
        require(
            low < time <= high,
            f"train.horizon={time} is not a time of the process, which are those from {low:g} to "
            f"{high:g}",
        )
        sigma = float(self.process.sigma(time))
        require(
            0 < sigma < math.inf,
            f"train.horizon={time} has the noise level {sigma:g}: choose an earlier time",
        )
        return sigma
