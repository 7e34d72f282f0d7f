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
    >>> print(claim.judge(np.tile([-0.3, -0.2, -0.4, -0.3], 12)))
    closer: supported, effect -0.3 [-0.319, -0.248], n = 48
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
        correlation of columns) are judged for these purifiers and other images.

        No resample has an image of a kind that the sample has none of, and too few have one of a rare kind. So the end
        of a mean's interval (the default's) that faces a bound allows for as many images across the bound as the exact
        binomial interval does (Clopper and Pearson 1934; 3.7 / n where there are none, like the rule of three): as far
        across as those of the sample are or, where it has none, as its farthest is on this side. Where all images have
        the same effect none shows how far others may lie, so a claim, with any statistic, is undecided.
        """
        effect, n = bootstrap(statistic, *samples, resamples=resamples, seed=seed), len(samples[0])
        samples = [np.asarray(sample) for sample in samples]
        alone = lambda image: statistic(*(sample[np.full(n, image)] for sample in samples))
        if effect.se == 0 and all(alone(image) == effect.value for image in range(n)):
            return self.judged(effect, n, alike=True)
        if statistic is np.mean:
            effect = self._widened(effect, samples[0].reshape(n, -1).mean(1, dtype=np.float64))
        return self.judged(effect, n)

    def judged(self, effect: Interval, n: int, alike: bool = False) -> "Verdict":
        """What an effect of n images with its 95 % interval and standard error says, however they were computed.

        alike: whether all images are, which decides nothing.
        """
        if not np.isfinite(effect).all():
            raise ValueError(f"the effect of {self.name} must be finite, got {effect}; check what it is computed from")
        if alike:
            return Verdict(self, effect, n, "undecided", math.inf)
        return Verdict(self, effect, n, self._outcome(effect), self._needed(effect, n))

    def _widened(self, effect: Interval, effects: np.ndarray) -> Interval:
        """The interval of a mean of `effects`, with the images across the next bound on either side that may be."""
        over = min((bound for bound in (self.above, self.below) if effect.value < bound), default=math.inf)
        under = max((bound for bound in (self.above, self.below) if effect.value > bound), default=-math.inf)
        high = _reached(effects, over) if math.isfinite(over) else effect.high
        low = -_reached(-effects, -under) if math.isfinite(under) else effect.low
        return effect._replace(low=min(low, effect.low), high=max(high, effect.high))

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


def _reached(effects: np.ndarray, bound: float | int) -> float:
    """The mean with the largest share of effects above the bound that a 95 % binomial interval allows."""
    from scipy.special import betaincinv

    across, n = effects > bound, len(effects)
    share = float(betaincinv(across.sum() + 1, n - across.sum(), 0.975))
    far = effects[across].mean() if across.any() else 2 * bound - effects.min()
    return float(share * far + (1 - share) * effects[~across].mean())


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
