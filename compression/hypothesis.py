"""Claims that data can contradict: an effect, where the claim wants it, and what the images at hand say of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .statistics import Interval, bootstrap


@dataclass(frozen=True)
class Hypothesis:
    """A claim that an effect lies above one number, below another, or between the two.

    name: a word or two. statement: the claim as a sentence. above, below: its bounds, in the effect's own unit; at
    least one finite, else ValueError. "There is no effect" needs both: what difference would be too small to matter.

    >>> claim = Hypothesis("closer", "Purification brings images closer to the clean image", below=0)
    >>> print(claim.judge(np.array([-0.3, -0.2, -0.4, -0.3])))
    closer: supported, effect -0.3 [-0.375, -0.225], n = 4
    """

    name: str
    statement: str
    above: float | int = -math.inf
    below: float | int = math.inf

    def __post_init__(self):
        if not self.above < self.below or math.isinf(self.above) and math.isinf(self.below):
            raise ValueError(f"{self.name} claims an effect above {self.above} and below {self.below}, which nothing, "
                             "or everything, contradicts; give `above`, `below`, or both with above < below")

    def judge(
        self, *samples: np.ndarray, statistic: Callable[..., float] = np.mean, resamples: int = 1000, seed: int = 0
    ) -> "Verdict":
        """What the images say: supported or contradicted where the effect's whole 95 % interval is on one side.

        samples: arrays with one row an image, n >= 2. statistic: of them, to the effect; by default the mean of one
        effect an image. Images are resampled with all that belongs to them, so effects across purifiers (a rank
        correlation of columns) are judged for these purifiers and other images. Undecided where every image has the
        same effect, for up to 3 / n of other images may have another (the rule of three), which no resample shows.
        """
        found = self.judged(bootstrap(statistic, *samples, resamples=resamples, seed=seed), len(samples[0]))
        samples, n = [np.asarray(sample) for sample in samples], len(samples[0])
        alone = lambda image: statistic(*(sample[np.full(n, image)] for sample in samples))
        alike = found.effect.se == 0 and all(alone(image) == found.effect.value for image in range(n))
        return found._replace(outcome="undecided", needed=math.inf) if alike else found

    def judged(self, effect: Interval, n: int) -> "Verdict":
        """What an effect of n images with its 95 % interval and standard error says, however they were computed."""
        if not np.isfinite(effect).all():
            raise ValueError(f"the effect of {self.name} must be finite, got {effect}; check what it is computed from")
        return Verdict(self, effect, n, self._outcome(effect), self._needed(effect, n))

    def _outcome(self, effect: Interval) -> str:
        if self.above < effect.low and effect.high < self.below:
            return "supported"
        if effect.high < self.above or effect.low > self.below:
            return "contradicted"
        return "undecided"


    def _needed(self, effect: Interval, n: int) -> float:
        value, low, high, _ = effect
        if value <= self.above:
            to_clear = [(high - value, self.above - value)]
        elif value >= self.below:
            to_clear = [(value - low, value - self.below)]
        else:
            to_clear = [(value - low, value - self.above), (high - value, self.below - value)]
        if any(away == 0 for _, away in to_clear):
            return math.inf
        return math.floor(n * max(half / away for half, away in to_clear) ** 2) + 1.0


class Verdict(NamedTuple):
    """What n images say of a hypothesis.

    effect: with its 95 % interval and standard error. outcome: "supported", "contradicted" or "undecided".
    needed: how many images it takes until the 95 % interval, which shrinks with the root of n, is on one side of the
        bounds; an estimate itself, and infinite where the effect is on a bound or all images are alike.
    """

    hypothesis: Hypothesis
    effect: Interval
    n: int
    outcome: str
    needed: float

    def __str__(self) -> str:
        value, low, high, _ = self.effect
        open_ = self.outcome == "undecided" and math.isfinite(self.needed)
        more = f", about {self.needed:.0f} would decide" if open_ else ""
        return f"{self.hypothesis.name}: {self.outcome}, effect {value:.3g} [{low:.3g}, {high:.3g}], n = {self.n}{more}"
