"""What respacing and the reverse variance contribute to the difference between our rates and the paper's (Table 2).

Command: purimetry run rates_causes
Time: on CIFAR-10 with --images 24 --draws 2 about 20 minutes of one core.
Expect: on CIFAR-10 (24 images) at t = 10, which is one step of 100, rates that are 0.05 too small for DDIM, and 0.02
too large for DDPM and reverse-only, by respacing alone; at t = 20 0.04 too small for DDIM, whose rate in the full
schedule is the paper's there; beta's variance to change nothing at t = 10, for the last step draws no noise, else to
add 0.01 to 0.02 in 100 steps and 0.005 in the full schedule.

Rates of the same images and perturbations at the paper's t, in steps of schedules respaced to 100, 200 and all of 1000
(where that is at most CALLS evaluations of the network), and with sigma_t from the posterior and from beta_t (Ho et al.
2020, Sec. 3.2), between which the paper does not say its choice. Differences are paired by image. What is left between
the finest schedule and Table 2 is the denoiser's, its images' and the paper's number of draws; one denoiser cannot tell
these apart.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from ..compression import samplers, schedules
from ..compression.batches import over_images
from ..compression.purifiers.diffusion import diffusion
from ..compression.rates import expected_rates
from ..compression.records import Measurement
from .pieces import Piece
from .workbench import Workbench, each

IMAGES = 32
"""Images at most, the first of the run's."""

TIMES = (10, 20, 50, 100)
"""t of the paper's 1000 steps."""

SCHEDULES = (100, 200, 1000)
"""Steps of the respaced schedules, the coarsest first."""

CALLS = 20
"""Evaluations of the network in one purification, at most."""

SIGMAS = {"posterior": samplers.posterior_sigma, "beta": samplers.beta_sigma}

SAMPLERS = {
    **{("ddpm", name): partial(samplers.ddpm, sigma=sigma) for name, sigma in SIGMAS.items()},
    **{("reverse", name): partial(samplers.reverse_only, sigma=sigma) for name, sigma in SIGMAS.items()},
    ("ddim", "none"): samplers.ddim,
}
"""By name and sigma; DDIM draws no noise."""


class Setting(NamedTuple):
    """A sampler to the paper's t in `calls` steps of a schedule respaced to `schedule` steps."""

    sampler: str
    sigma: str
    t: int
    schedule: int

    @property
    def calls(self) -> int:
        """Evaluations of the network."""
        return self.t * self.schedule // 1000

    def __str__(self) -> str:
        return f"{self.sampler}-{self.sigma}-t{self.t}-of{self.schedule}"


def settings() -> list[Setting]:
    """Everything that is measured."""
    whole = [(t, n) for t in TIMES for n in SCHEDULES if t * n % 1000 == 0 and t * n // 1000 <= CALLS]
    return [Setting(*sampler, t, n) for t, n in whole for sampler in SAMPLERS]


def rates(bench: Workbench, setting: Setting) -> np.ndarray:
    """Expected l2 rate of each image, at the first budget and base seed."""

    def compute():
        steps = SAMPLERS[setting.sampler, setting.sigma](schedules.respaced(schedules.linear(), setting.schedule),
                                                         setting.calls)
        images, keys = bench.images[:IMAGES], bench.keys()[:IMAGES]
        found = over_images(partial(expected_rates, draws=bench.configuration.draws),
                            (diffusion(bench.denoiser, steps),), images, keys,
                            np.full(len(images), bench.configuration.eps[0], np.float32), name=f"rate of {setting}")
        return {"l2": found.l2.mean}

    return bench.shard("rates_causes", str(setting), compute)["l2"]


def pieces(bench: Workbench) -> list[Piece]:
    """Each setting; those of as many steps share a program."""
    return [Piece(found.calls, found.calls, partial(rates, bench, found)) for found in settings()]


def run(bench: Workbench) -> list[Measurement]:
    """Measure every setting, and what each cause changes."""
    found = {setting: rates(bench, setting) for setting in each("rates", settings())}
    return bench.write("rates_causes", [*_rates(bench, found), *_changes(bench, found)])


def _rates(bench: Workbench, found: dict[Setting, np.ndarray]) -> Iterator[Measurement]:
    for setting, values in found.items():
        yield bench.mean("rates_causes", "rate_l2", values, "ratio", setting._asdict())


def _changes(bench: Workbench, found: dict[Setting, np.ndarray]) -> Iterator[Measurement]:
    """From the finest schedule to each other one, and from the posterior's sigma to beta's."""
    for setting, values in found.items():
        finest = setting._replace(schedule=max(s.schedule for s in found if s._replace(schedule=0) ==
                                               setting._replace(schedule=0)))
        if setting != finest:
            yield bench.mean("rates_causes", "by_respacing", values - found[finest], "ratio",
                             {**setting._asdict(), "from": finest.schedule})
        if setting.sigma == "beta":
            posterior = found[setting._replace(sigma="posterior")]
            yield bench.mean("rates_causes", "by_variance", values - posterior, "ratio", setting._asdict())
