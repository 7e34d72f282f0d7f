"""Every figure draws from records alone, with labelled axes, and gives the same bytes for the same records."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from purimetry.compression.records import Folder, Measurement, load_arrays, save_arrays
from purimetry.figures import style
from purimetry.figures.minimum_perturbation import gaussian_survival, survival_steps

FIGURES = ["training", "rates", "minimum_perturbation", "robust_accuracy", "prediction", "diagnosis"]
PREDICTORS = [
    "survival_clean",
    "survival_anchor",
    "image_wise",
    "adversarial_rate",
    "first_order",
    "short_attack",
    "extrapolated_attack",
]
CAUSES = ["anchor_shift", "heterogeneity", "norm", "anisotropy", "nonlinearity", "residual"]
UNITS = ("(%", "(ratio)", "units)", "steps", "ratio)", "squared)", "(rank)", "(iterates", "points)")


class SyntheticRun:
    """Records as the experiments write them, of purifiers whose rate is known and images whose thresholds are drawn."""

    def __init__(
        self,
        folder: Path,
        samplers=("ddpm", "reverse", "ddim"),
        t_stars=(1, 2, 5, 10, 15),
        eps=(0.1, 0.2),
        images=128,
        seeds=(0, 1, 2),
        note="",
    ):
        self.samplers, self.t_stars, self.eps, self.images, self.seeds = samplers, t_stars, eps, images, seeds
        self.configuration = {
            "images": images,
            "samplers": list(samplers),
            "t_stars": list(t_stars),
            "respaced": 100,
            "eps": list(eps),
            "seeds": list(seeds),
            "eps_factors": [0.25, 0.5, 1.0, 2.0, 4.0],
            "eps_max": 0.5,
            "draws": 16,
            "bootstrap": 1000,
            "dataset": "digits",
            "note": note,
            "attack_steps": 12,
            "attack_restarts": 10,
            "paper_steps": 40,
            "training": {"classifier_steps": 1500, "denoiser_steps": 4000, "seed": 0},
        }
        self.folder, self.random = Folder(folder, self.configuration), np.random.default_rng(0)
        self.distance = np.where(
            self.random.random(images) < 0.03, 0, self.random.normal(0.12, 0.035, images).clip(0.01, 0.5)
        )

    def write(self, *experiments: str) -> Path:
        """Write records and shards of some experiments."""
        for name in experiments:
            self.folder.write(name, list(getattr(self, f"_{name}")()))
            about = f"What {name} is about.\n\nCommand: purimetry run {name}\nTime: 1 second.\n\nHow it was computed."
            (self.folder.path / name / "about.txt").write_text(about)
        return self.folder.path

    def _one(self, experiment, quantity, value, at, unit="%", se=1.0, n=None, seed=None):
        run = {
            "configuration": self.configuration,
            "seed": self.seeds[0] if seed is None else seed,
            "device": "cpu (x86_64, linux)",
            "versions": {"python": "3.11.9", "jax": "0.10.2"},
            "data_sha256": "d" * 64,
            "weights_sha256": {"classifier": "c" * 64, "denoiser": "e" * 64},
        }
        return Measurement(experiment, quantity, float(value), se, n or self.images, unit, at, run)

    def _shard(self, experiment, name, **arrays):
        return self.folder.shard(experiment, name, lambda: arrays)

    def _cells(self):
        return [{"sampler": s, "t_star": t} for s in self.samplers for t in self.t_stars]

    def _rate(self, cell):
        speed = {"ddpm": 0.45, "reverse": 0.55, "ddim": 0.38}[cell["sampler"]]
        return 0.15 + 0.8 * np.exp(-speed * cell["t_star"] ** 0.7)

    def _survives(self, cell, eps):
        rate = 0 if cell["t_star"] == 0 else self._rate(cell)
        return 100 * np.mean(self.distance > (eps if cell["t_star"] == 0 else 1.6 * rate * eps))

    def _training(self):
        yield self._one("training", "clean_accuracy", 97.4, {}, se=0.7, n=500)
        for t in (10, 20, 50, 100, 150, 300, 600):
            yield self._one(
                "training", "noise_prediction_error", 8 / (t + 10), {"t": t}, "mean squared error", 0.002, 500
            )

    def _rates(self):
        for cell in self._cells():
            rate, name = self._rate(cell), f"{cell['sampler']}-t{cell['t_star']}"
            spectrum = 2.2 * rate * np.linspace(1.4, 0.2, 64) * self.random.lognormal(0, 0.1, (self.images, 1))
            self._shard("rates", f"{name}-spectra", singular_values=spectrum)
            for seed in self.seeds:
                yield self._one("rates", "clean_accuracy", 95.0, {**cell, "seed": seed}, se=1.8, seed=seed)
                for eps in sorted({*self.eps, *(f * self.eps[0] for f in (0.25, 0.5, 1.0, 2.0, 4.0))}):
                    l2 = rate * (1 + 0.4 * eps) * self.random.lognormal(0, 0.1, self.images)
                    self._shard("rates", f"{name}-eps{eps:g}-seed{seed}", l2=l2, linf=1.3 * l2)
                    at = {**cell, "eps": eps, "seed": seed}
                    for norm, values in (("l2", l2), ("linf", 1.3 * l2)):
                        yield self._one("rates", f"rate_{norm}", values.mean(), at, "ratio", 0.003, seed=seed)
                        yield self._one("rates", f"rate_{norm}_spread", values.std(), at, "ratio", None, seed=seed)
            at = {**cell, "eps": self.eps[0]}
            yield self._one("rates", "rate_l2_over_seeds", rate, at, "ratio", 0.003)
            yield self._one("rates", "rate_l2_seed_spread", 0.001, at, "ratio", None)
            for quantity, value in (
                ("rms_rate", 1.02 * rate),
                ("rms_rate_hutchinson", 1.03 * rate),
                ("largest_singular_value", 3 * rate),
                ("expanding_directions", 12 * rate),
            ):
                yield self._one("rates", quantity, value, cell, "ratio", 0.01)

    def _minimum_perturbation(self):
        for cell in [{"sampler": "none", "t_star": 0}, *self._cells()]:
            distance = self.distance * (1 - 0.02 * cell["t_star"])
            censored = distance > 0.45
            self._shard(
                "minimum_perturbation", f"{cell['sampler']}-t{cell['t_star']}", distance=distance, censored=censored
            )
            yield self._one("minimum_perturbation", "clean_accuracy", 100 * np.mean(distance > 0), cell)
            yield self._one("minimum_perturbation", "censored", 0.0, cell, se=None)
            for eps in self.eps:
                yield self._one("minimum_perturbation", "survival", 100 * np.mean(distance > eps), {**cell, "eps": eps})
            for part, value in zip(("zero", "mean", "std"), (0.03, distance.mean(), 0.035), strict=True):
                yield self._one("minimum_perturbation", f"gaussian_{part}", value, cell, "pixel", 0.002)

    def _robust_accuracy(self):
        for cell in [{"sampler": "none", "t_star": 0}, *self._cells()]:
            for eps in self.eps:
                for attack in ("paper", "converged", "stronger") if cell["t_star"] == 0 else ("paper", "converged"):
                    at, value = {**cell, "eps": eps, "attack": attack}, self._survives(cell, eps)
                    end = value + 4 * (attack == "paper")
                    yield self._one("robust_accuracy", "robust_accuracy", end, at, se=3.0)
                    yield self._one(
                        "robust_accuracy", "gradients", 40.0 if attack == "paper" else 66.0, at, "gradients an image"
                    )
                    for iterates in (0, 1, 2, 4, 8, 16, 41) if attack == "paper" else (0, 1, 2, 4, 8, 16, 32, 64, 130):
                        early = (97 - end) * np.exp(-iterates / 3)
                        yield self._one(
                            "robust_accuracy", "robust_accuracy_by_iterate", end + early, {**at, "iterates": iterates}
                        )

    def _prediction(self):
        bias = dict(zip(PREDICTORS, (14, 12, 10, 4, 3, 2, 0.5), strict=True))
        for cell in self._cells():
            for eps in self.eps:
                at, value = {**cell, "eps": eps}, self._survives(cell, eps)
                yield self._one("prediction", "measured_robust_accuracy", value, at, se=3.0)
                for predictor in PREDICTORS:
                    predicted = np.clip(value + bias[predictor] * self.random.uniform(0.3, 1.7), 0, 100)
                    yield self._one(
                        "prediction", "predicted_robust_accuracy", predicted, {**at, "predictor": predictor}, se=3.0
                    )
        for rank, predictor in enumerate(PREDICTORS):
            at = {"predictor": predictor}
            for quantity, value, unit in (
                ("mean_absolute_error", bias[predictor], "points"),
                ("mean_absolute_error_by_chance", bias[predictor] / 4, "points"),
                ("largest_error", 2 * bias[predictor], "points"),
                ("bias", bias[predictor], "points"),
                ("spearman", 0.9 + rank / 100, "rank correlation"),
                ("gradients", 3.0 * rank, "gradients an image"),
                ("cost", 2.0 * rank, "%"),
            ):
                yield self._one("prediction", quantity, value, at, unit, None)
            for side, shift in (("low", -0.02), ("high", 0.02)):
                yield self._one(
                    "prediction", f"mean_absolute_error_{side}", bias[predictor] * (1 + 10 * shift), at, "points", None
                )
                yield self._one(
                    "prediction", f"spearman_{side}", 0.9 + rank / 100 + shift, at, "rank correlation", None
                )
            if not predictor.startswith("survival"):
                yield self._one("prediction", "agreement", 88 + rank, at, se=0.5)
            for eps in self.eps:
                yield self._one(
                    "prediction", "mean_absolute_error", bias[predictor], {**at, "eps": eps}, "points", None
                )
        for eps in self.eps:
            center = 0.075 / eps
            for quantity, value, unit in (
                ("plateau", 97, "%"),
                ("center", center, "ratio"),
                ("width", center / 5, "ratio"),
                ("intercept", 96, "%"),
            ):
                yield self._one("prediction", f"sigmoid_{quantity}", value, {"eps": eps}, unit, 0.02 * value)
            yield self._one("prediction", "mean_clean_accuracy", 95.1, {"eps": eps}, se=1.1)

    def _diagnosis(self):
        for cell in self._cells():
            for eps in self.eps:
                at = {**cell, "eps": eps}
                contributions = np.array([-1, 2, -9, -14, 3, 1]) * self.random.uniform(0.3, 1.2, len(CAUSES))
                for cause, value in zip(CAUSES, contributions, strict=True):
                    of_cause = {**at, "cause": cause}
                    yield self._one("diagnosis", "contribution", value, of_cause, "percentage points", 1.2)
                total = contributions.sum()
                yield self._one("diagnosis", "measured_minus_predicted", total, at, "percentage points", 2.0)
                for quantity in (
                    "rate_drift", "adversarial_over_random", "linf_over_l2", "distance_over_linear",
                    "gained_over_promised",
                ):
                    yield self._one("diagnosis", quantity, self.random.uniform(1, 2), at, "ratio", 0.01)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small grid, of which every experiment is finished."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return SyntheticRun(folder, ("ddpm", "ddim"), (2, 5), images=40, seeds=(0, 1)).write(*FIGURES)


def draw(name: str, folder: Path):
    return import_module(f"purimetry.figures.{name}").draw(folder)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_with_units(name, run):
    figure = draw(name, run)
    figure.draw_without_rendering()
    labels = [label for axis in figure.axes for label in (axis.get_xlabel(), axis.get_ylabel()) if label]
    assert labels and all(any(unit in label for unit in UNITS) for label in labels), labels
    outer = [axis for axis in figure.axes if axis.get_subplotspec().is_last_row()]
    assert all(axis.get_xlabel() for axis in outer)
    assert all(axis.get_ylabel() for axis in figure.axes if axis.get_subplotspec().is_first_col())


@pytest.mark.parametrize("name", FIGURES)
def test_same_records_give_the_same_bytes(name, run):
    assert style.encode(draw(name, run), "svg") == style.encode(draw(name, run), "svg")


def test_saved_picture_carries_no_date_and_has_the_promised_size(run, tmp_path):
    style.save(draw("training", run), tmp_path, "training")
    png, svg = (tmp_path / "training.png").read_bytes(), (tmp_path / "training.svg").read_text()
    assert int.from_bytes(png[16:20], "big") == 200 * 3.5
    assert "<dc:date>" not in svg


def test_figures_leave_the_users_style_alone(run):
    import matplotlib

    before = dict(matplotlib.rcParams)
    style.encode(draw("rates", run), "svg")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
def test_one_cell_and_one_budget_are_enough(name, tmp_path):
    run = SyntheticRun(tmp_path / "out", ("reverse",), (5,), eps=(0.1,), images=8, seeds=(3,)).write(*FIGURES)
    assert draw(name, run).axes


def test_minimum_perturbations_without_a_fit_are_drawn(tmp_path):
    run = SyntheticRun(tmp_path / "out", ("reverse",), (5,), eps=(0.1,), images=8, seeds=(3,)).write(*FIGURES)
    path = run / "minimum_perturbation/records.jsonl"
    kept = [line for line in path.read_text().splitlines(True) if "gaussian_" not in line]
    assert kept and len(kept) < len(path.read_text().splitlines())
    path.write_text("".join(kept))
    labels = [label for axis in draw("minimum_perturbation", run).axes for label in axis.get_legend_handles_labels()[1]]
    assert "clean images" in labels and not any("fit" in label or "Gaussian" in label for label in labels)


def test_minimum_perturbations_of_images_that_all_withstand_are_drawn(tmp_path):
    run = SyntheticRun(tmp_path / "out", ("reverse",), (5,), eps=(0.1,), images=8, seeds=(3,)).write(*FIGURES)
    for path in run.glob("minimum_perturbation/shards/*.npz"):
        arrays = load_arrays(path)
        save_arrays(path, {**arrays, "distance": np.full(8, 0.5), "censored": np.ones(8, bool)})
    assert draw("minimum_perturbation", run).axes


def test_survival_steps_are_the_share_of_images_beyond_each_budget():
    budgets, share, low, high = survival_steps(np.array([0.0, 0.1, 0.2, 0.5]), 0.5)
    np.testing.assert_allclose(budgets[:-1], [0.0, 0.1, 0.2])
    np.testing.assert_allclose(share, [75, 50, 25, 25])
    assert (low < share).all() and (share < high).all()


def test_gaussian_survival_starts_at_the_uninflated_mass_and_halves_at_the_mean():
    np.testing.assert_allclose(
        gaussian_survival(np.array([-9.0, 0.1, 9.0]), 0.2, 0.1, 0.05), [0.8, 0.4, 0.0], atol=1e-12
    )
