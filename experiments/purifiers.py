"""The diffusion purifiers that a run can be told to measure, by the name of their sampler."""

from collections.abc import Callable

import numpy as np

from ..compression import samplers, schedules, solvers
from ..compression.purifiers import flow
from ..compression.samplers import Steps
from ..compression.schedules import Schedule

PROCESS = schedules.linear()
"""The process whose noise the predictors of all runs are told; a run's schedule is this one, respaced."""

DPM_STEPS = 20
"""Steps of the paper's DPM-20 (Table 4)."""


def dpm20(schedule: Schedule, t_star: int | float) -> Steps:
    """DPM-Solver++ of order 2 in 20 steps from the schedule's t_star, fewer where the whole process has not as many.

    schedule: PROCESS respaced. The solver's steps are those of the whole process that divide the way most evenly.

    >>> schedule = schedules.respaced(PROCESS, 100)
    >>> dpm20(schedule, 10).time[:3].tolist(), len(dpm20(schedule, 1).t)
    ([99.0, 94.0, 89.0], 10)
    """
    first_order = samplers.ddim(schedule, t_star)
    t = len(first_order.t) * PROCESS.steps // schedule.steps
    kept = np.unique(np.linspace(0, t, DPM_STEPS + 1).round().astype(int))
    return solvers.dpm(Schedule(PROCESS.alpha_bar[kept], PROCESS.time[kept]), len(kept) - 1) if t else first_order


SAMPLERS: dict[str, Callable[[Schedule, int], Steps]] = {
    **samplers.SAMPLERS, "one_step": samplers.one_step, "dpm": dpm20, "flow": flow.like,
}
"""Of the run's schedule and t*; all of them remove as much noise at the same t*."""

OF_VELOCITY = ("flow",)
"""Those that follow a velocity, a trained network's or that of a noise predictor."""
