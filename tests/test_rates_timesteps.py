"""Whether a rate's course over the whole diffusion time is read rightly, and shown, on curves that are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from purimetry.compression.records import Folder, Measurement
from purimetry.experiments import rates_timesteps
from purimetry.figures import rates_timesteps as drawing
from purimetry.figures import style

T_STARS = rates_timesteps.times(100, 128)
FALLING = np.linspace(0.7, 0.1, len(T_STARS))
S_SHAPED = np.interp(T_STARS, [1, 20, 70, 100], [0.7, 0.2, 0.4, 0.1])


@pytest.fixture
def bench(monkeypatch):
    """64 images whose rates follow a falling curve with DDPM and an S-shaped one without its forward process."""
    curves = dict(zip(("ddpm", "reverse"), (FALLING, S_SHAPED), strict=True))
    images = np.random.default_rng(0).normal(0, 0.02, 64)
    monkeypatch.setattr(rates_timesteps, "_rates", lambda bench, cell: (
        curves[cell.sampler][T_STARS.index(cell.t_star)] + images * (1 + cell.t_star / 100)))
    run = {"configuration": {"respaced": 100}}
    return SimpleNamespace(
        configuration=SimpleNamespace(bootstrap=100), schedule=SimpleNamespace(steps=100), images=np.zeros(128),
        measurement=lambda experiment, quantity, value, *others: Measurement(
            experiment, quantity, float(value), *others, run=run),
    )


def test_a_falling_and_an_s_shaped_course_are_told_apart_and_drawn(bench, tmp_path):
    records = [m for sampler in rates_timesteps.SAMPLERS for center in rates_timesteps.CENTERS
               for m in rates_timesteps._course(bench, sampler, center)]
    for cell in rates_timesteps.grid(bench):
        at = {**cell.at, "eps": 0.1}
        for quantity in ("clean_accuracy", "rate", "median_rate", "expanded", "robust_accuracy"):
            records.append(bench.measurement("rates_timesteps", quantity, 0.5, 0.1, 64, "ratio", at))
    course, points = drawing.tables({"rates_timesteps": records})
    assert [row["ours"] for row in course.rows] == ["falls everywhere"] * 2 + ["rises"] * 2
    assert [row["a rise there"] for row in course.rows] == ["contradicted"] * 2 + ["supported"] * 2
    assert all(20 <= int(t) <= 70 for row in course.rows[2:] for t in row["from t* to t*"].split(" to "))
    assert len(points.rows) == 2 * len(T_STARS)
    folder = Folder(tmp_path / "out", {})
    folder.write("rates_timesteps", records)
    assert style.encode(drawing.draw(folder.path), "svg")
