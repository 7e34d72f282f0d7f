"""The purifiers that a run can be told to measure, and experiments that do without some of them or refuse."""

from types import SimpleNamespace
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import purimetry as pm
from purimetry.compression import samplers
from purimetry.compression.data.dataset import only_test
from purimetry.compression.records import RecordError
from purimetry.compression.schedules import rectified_time
from purimetry.experiments import (
    alp_hierarchy, attack_peers, command_line, diffusion_steps, exact_theory, models, networks, protocols, training,
)
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.pieces import groups
from purimetry.experiments.purifiers import OF_VELOCITY, PROCESS, SAMPLERS
from purimetry.experiments.workbench import Cell, Unmet, Workbench
from purimetry.figures import style
from purimetry.figures import training as drawn

from .test_figures import SyntheticRun

SCHEDULE = pm.respaced(PROCESS, 100)
X, NOISE = (jax.random.uniform(jax.random.key(seed), (2, 3, 1), minval=-0.5, maxval=0.5) for seed in (0, 1))


def test_the_command_line_the_table_and_the_figures_have_the_same_samplers():
    (told, _) = get_args(get_type_hints(Configuration)["samplers"])  # or None
    assert get_args(get_args(told)[0]) == tuple(SAMPLERS)
    for looks in (style.SAMPLER_COLOURS, style.SAMPLER_MARKERS, style.SAMPLER_NAMES):
        assert looks.keys() == {*SAMPLERS, "none"} and len(set(looks.values())) == len(looks)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("t_star", [0, 1, 5, 15])
def test_all_start_from_the_same_noise(kind, t_star):
    steps = SAMPLERS[kind](SCHEDULE, t_star)
    signal = np.sqrt(SCHEDULE.alpha_bar[t_star])
    if t_star and kind != "reverse":
        assert float(steps.signal[0]) == pytest.approx(signal, rel=1e-6)  # float32
        assert float(jnp.prod(steps.forward_state)) == pytest.approx(signal, rel=1e-5)
    counts = {"one_step": min(t_star, 1), "dpm": min(10 * t_star, 20)}
    assert len(steps.t) == counts.get(kind, t_star)


@pytest.mark.parametrize("kind", ["ddim", "one_step", "dpm", "flow"])
@pytest.mark.parametrize("t_star", [1, 7])
def test_the_deterministic_ones_are_exact_where_the_noise_is_known(kind, t_star):
    """On the straight line from the noise to the image, whose velocity is constant."""
    steps = SAMPLERS[kind](SCHEDULE, t_star)
    predictor = pm.noise_of(lambda y, t: NOISE - X) if kind in OF_VELOCITY else lambda x, t: NOISE
    signal = np.sqrt(SCHEDULE.alpha_bar[t_star])
    found = samplers.denoise(steps, predictor, signal * X + np.sqrt(1 - signal**2) * NOISE, pm.configuration(0, 0))[0]
    np.testing.assert_allclose(found, X, atol=1e-5)  # float32, up to 20 steps


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("t_star", [-1, 101, 1.5])
def test_a_t_star_that_is_no_step_of_the_schedule_is_refused(kind, t_star):
    with pytest.raises(ValueError, match="t_star"):
        SAMPLERS[kind](SCHEDULE, t_star)


def test_dpm_takes_20_steps_of_the_process_as_even_as_they_can_be():
    times = np.asarray(SAMPLERS["dpm"](SCHEDULE, 5).time)
    assert times[0] == 49 and set(-np.diff(times)) == {2, 3} and (np.diff(times) < 0).all()


def test_a_run_purifies_by_its_flow_and_records_its_weights(tmp_path, monkeypatch):
    velocity = lambda y, t: jnp.tanh(2 * y) + 0.1 * jnp.sin(3 * y + t / 100)
    monkeypatch.setattr(models, "velocity", lambda *_: (velocity, "flow's"))
    monkeypatch.setattr(models, "denoiser", lambda *_: (lambda x, t: 0 * x, "denoiser's"))
    monkeypatch.setattr(models, "classifier", lambda *_: (None, "classifier's"))
    bench = Workbench(Configuration(out=tmp_path / "out", images=2, samplers=("flow", "ddim"), t_stars=(5,)))
    x, key = jnp.asarray(bench.images[0]), bench.keys()[0]
    alone = pm.flow(velocity, rectified_time(SCHEDULE.alpha_bar[5]), 5)
    np.testing.assert_allclose(bench.purifier(Cell("flow", 5))(x, key), alone(x, key), atol=1e-6)
    weights = bench.mean("rates", "rate", np.arange(2.0), "ratio", {}).run["weights_sha256"]
    assert weights == {"classifier": "classifier's", "denoiser": "denoiser's", "velocity": "flow's"}


def test_a_given_denoisers_flow_needs_no_training(tmp_path, monkeypatch):
    predictor = lambda x, time: jnp.tanh(x) + time / 500
    given = SimpleNamespace(network=predictor, sha256="given's", trained_until=None, determinants={"sha256": "given's"})
    monkeypatch.setattr(networks, "_read", lambda configuration, dataset: {"denoiser": given})
    monkeypatch.setattr(models, "classifier", lambda *_: (None, "classifier's"))
    bench = Workbench(Configuration(out=tmp_path / "out", images=2, samplers=("flow",), t_stars=(5,)))
    x, key = jnp.asarray(bench.images[0]), bench.keys()[0]
    alone = pm.flow(pm.velocity_of(predictor, PROCESS), rectified_time(SCHEDULE.alpha_bar[5]), 5)
    np.testing.assert_allclose(bench.purifier(Cell("flow", 5))(x, key), alone(x, key), atol=1e-6)  # float32
    weights = bench.mean("rates", "rate", np.arange(2.0), "ratio", {}).run["weights_sha256"]
    assert weights == {"classifier": "classifier's", "denoiser": "given's"}
    assert '"velocity": "the denoiser\'s"' in (tmp_path / "out" / "run.json").read_text()


MINE = """
import jax.numpy as jnp
noise = lambda x, t: jnp.tanh(x) + t / 2000
velocity = lambda y, t: jnp.sin(y) + t / 999
other = lambda y, t: jnp.sin(y) - t / 999
"""


def untrained(*_):
    raise AssertionError("a denoiser is trained that nothing asks for")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of one's own functions, which the run need not train."""
    monkeypatch.setattr(models, "classifier", lambda *_: (None, "classifier's"))
    monkeypatch.setattr(models, "denoiser", untrained)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def flow_of(out, mine, name="velocity", **told):
    told = {"samplers": ("flow",), "t_stars": (5,), "images": 2, "velocity": f"{mine}:{name}"} | told
    return Workbench(Configuration(out=out, **told))


def test_a_given_velocity_is_followed_beside_another_given_denoiser(mine, tmp_path):
    bench = flow_of(tmp_path / "out", mine, samplers=("flow", "ddim"), denoiser=f"{mine}:noise")
    x, key = jnp.asarray(bench.images[0]), bench.keys()[0]
    alone = pm.flow(lambda y, t: jnp.sin(y) + t / 999, rectified_time(SCHEDULE.alpha_bar[5]), 5)
    np.testing.assert_allclose(bench.purifier(Cell("flow", 5))(x, key), alone(x, key), atol=1e-6)  # float32
    weights = bench.mean("rates", "rate", np.arange(2.0), "ratio", {}).run["weights_sha256"]
    assert weights.keys() == {"classifier", "denoiser", "velocity"} and weights["denoiser"] != weights["velocity"]
    with pytest.raises(RecordError, match="velocity"):
        flow_of(tmp_path / "out", mine, "other", samplers=("flow", "ddim"), denoiser=f"{mine}:noise")


def test_a_flow_along_its_own_velocity_needs_no_denoiser(mine, tmp_path):
    bench = flow_of(tmp_path / "out", mine)
    assert bench.purifier(Cell("flow", 5))(jnp.asarray(bench.images[0]), bench.keys()[0]).shape == bench.images[0].shape
    assert bench.networks.sha256.keys() == {"classifier", "velocity"}
    with pytest.raises(Unmet, match="takes a noise predictor, and --samplers names only flow"):
        callable(bench.denoiser)
    with pytest.raises(Unmet, match="ALP is timed beside DDPM"):
        alp_hierarchy.pieces(bench)


def test_a_velocity_that_nothing_follows_is_refused(mine, tmp_path):
    for kinds, said in (("ddim",), "ddim"), ((), "none"):
        with pytest.raises(ValueError, match=f"--samplers flow follows, got --samplers {said}; add it"):
            flow_of(tmp_path / "out", mine, samplers=kinds, purifiers=(f"{mine}:noise",))


def test_a_velocity_is_followed_in_the_runs_precision(mine, tmp_path):
    weighted = "jax.tree_util.Partial(lambda weight, y, t: jnp.sin(weight * y), jnp.float32(0.7))"
    mine.write_text(f"import jax\nimport jax.numpy as jnp\nnetwork = {weighted}\n")
    full, narrow = (flow_of(tmp_path / precision, mine, "network", precision=precision)
                    for precision in ("float32", "bfloat16"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(full.networks.velocity)} == {"float32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow.networks.velocity)} == {"bfloat16"}
    x, key = jnp.asarray(full.images[0]), full.keys()[0]
    ours, rounded = (bench.purifier(Cell("flow", 5))(x, key) for bench in (full, narrow))
    # Weight, image and result are rounded to 8 bits, and a step takes a part of what they predict.
    assert rounded.dtype == ours.dtype and 1e-6 < float(jnp.abs(rounded - ours).max()) < 3 * 2**-8
    mine.write_text(MINE)
    with pytest.raises(ValueError, match="--precision bfloat16 rounds weights, and --velocity .* shows none"):
        flow_of(tmp_path / "out", mine, precision="bfloat16")


def test_a_velocity_is_tested_as_the_noise_that_it_implies(mine, tmp_path, monkeypatch):
    """The velocity of a noise predictor errs as that one does, at times of as much noise."""
    mine.write_text(MINE + "import purimetry as pm\nvelocity = pm.velocity_of(noise, pm.linear())\n")
    monkeypatch.setattr(models, "classifier", lambda *_: (lambda x: x.reshape(-1)[:10], "classifier's"))
    bench = flow_of(tmp_path / "out", mine, samplers=("flow", "ddim"), denoiser=f"{mine}:noise")
    found = training.run(bench)
    errors = [{m.at["t"]: m.value for m in found if m.quantity == f"{name}_prediction_error"}
              for name in ("noise", "flow")]
    assert list(errors[0]) == list(training.TIMES)
    np.testing.assert_allclose(list(errors[1].values()), list(errors[0].values()), rtol=1e-3)  # float32, t near 0
    assert len({round(value, 3) for value in errors[0].values()}) == len(training.TIMES)
    assert len(drawn.draw(bench.folder.path).axes[0].get_legend().texts) == 2

    alone = flow_of(tmp_path / "alone", mine)
    assert {m.quantity for m in training.run(alone)} == {"clean_accuracy", "flow_prediction_error"}
    assert len(drawn.draw(alone.folder.path).axes[0].get_legend().texts) == 1


def test_what_the_denoiser_is_not_asked_for_is_measured_without_it(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "classifier", lambda *_: (lambda x: x.reshape(-1)[:10], "classifier's"))
    mine.write_text(MINE + "blur = lambda x, key: x / 2\n")
    bench = flow_of(tmp_path / "out", mine, samplers=(), velocity=None, purifiers=(f"{mine}:blur",),
                    denoiser=f"{mine}:noise")
    (measured,) = training.run(bench)
    assert measured.quantity == "clean_accuracy" and measured.run["weights_sha256"].keys() == {"classifier", "blur"}


def bench_of(*kinds):
    configuration = SimpleNamespace(samplers=kinds, t_stars=(2, 5), respaced=100)
    cells = [Cell(kind, 5) for kind in kinds]
    return SimpleNamespace(configuration=configuration, schedule=SCHEDULE, grid=cells, middle_cells=cells,
                           networks=SimpleNamespace(given={}),
                           purifier=lambda cell: pm.diffusion(lambda x, t: x, SAMPLERS[cell.sampler](SCHEDULE, 5)))


@pytest.mark.parametrize("large, together", [(False, [[0, 2], [1]]), (True, [[0], [2], [1]])])
def test_purifiers_of_one_t_star_go_to_one_process_where_compiling_counts(large, together):
    cells = [Cell("ddpm", 5), Cell("ddpm", 2), Cell("ddim", 5)]
    bench = SimpleNamespace(large=large, _networks_before=lambda cell: ())
    pieces = Workbench.pieces(bench, cells, lambda bench, cell: iter(()))
    assert groups(pieces, workers=2) == together


def test_experiments_leave_out_what_they_have_no_meaning_for():
    assert diffusion_steps.studied(bench_of("dpm", "flow", "one_step")) == [Cell("flow", 5)]
    with pytest.raises(Unmet, match="have no rates by step; name another than dpm and one_step"):
        diffusion_steps.studied(bench_of("dpm", "one_step"))
    assert {cell for _, _, cell in exact_theory._grid(bench_of("flow", "ddpm"))} == {Cell("ddpm", 5)}
    with pytest.raises(Unmet, match="closed forms are known for ddpm, .* name one of them"):
        exact_theory._grid(bench_of("flow", "dpm", "one_step"))
    for bench in (bench_of("flow"), SimpleNamespace(networks=SimpleNamespace(given={"classifier": None}))):
        with pytest.raises(Unmet, match="twins, which there are of the networks trained here behind ddpm, "):
            attack_peers.pieces(bench)
    assert "one step" not in protocols.gradients(bench_of("dpm"), Cell("dpm", 5))


def test_a_surrogate_is_known_without_the_network_that_it_is_made_of():
    bench, cell = bench_of("ddpm"), Cell("ddpm", 5)
    names = protocols.gradients(SimpleNamespace(configuration=bench.configuration), cell)
    assert names == ("full", "bpda", "one step")
    surrogate = protocols._standing(bench, cell, names[-1])
    whole, short = (np.asarray(steps.time) for steps in surrogate.args[1:3])
    assert short == whole[:1]  # one step, from where the purifier's begin


def test_a_run_goes_on_without_an_experiment_that_lacks_something(tmp_path, monkeypatch, capsys):
    ran, bare = [], SimpleNamespace(dataset=only_test("x", np.zeros((2, 8, 8, 1), np.float32), [0, 1]))
    lacks = SimpleNamespace(__doc__="", pieces=lambda bench: Workbench.training.fget(bare), run=ran.append)
    works = SimpleNamespace(__doc__="", pieces=lambda bench: [], run=ran.append)
    monkeypatch.setattr(command_line, "import_module", lambda name, _: {".manifold": lacks, ".rates": works}[name])
    configuration = Configuration(out=tmp_path / "out", images=2, workers=1)
    command_line._run(["manifold", "rates"], configuration)
    assert len(ran) == 1 and "left out manifold: x has no training images" in capsys.readouterr().out
    with pytest.raises(Unmet, match="take digits, cifar10 or cifar100"):
        command_line._run(["manifold"], configuration)


class OwnImages(SyntheticRun):
    """A run on images of one's own by Table 4's samplers."""

    def _rate(self, cell):
        return {"ddpm": 0.15, "sde": 0.17, "dpm": 0.34}[cell["sampler"]]


def test_table_4_stands_beside_a_run_on_images_of_ones_own(tmp_path):
    from purimetry.figures.prediction import tables

    run = OwnImages(tmp_path / "out", samplers=("ddpm", "sde", "dpm"), t_stars=(10,), eps=(4 / 255,))
    run.configuration["dataset"] = "val"
    (table,) = [t for t in tables({"prediction": list(run._prediction())}) if t.title.startswith("Table 4: robust")]
    theirs = [[row[f"paper, ImageNet, eps 4/255: {name}"] for name in (
        "clean accuracy", "rate", "survival at clean images", "survival at anchors", "PGD")] for row in table.rows]
    assert theirs == [["73.6", "0.147", "46.1", "42.2", "–"], ["75.4", "0.165", "40.1", "38.0", "–"],
                      ["59.8", "0.337", "1.0", "0.5", "–"]]
    run.configuration["dataset"] = "digits"
    titles = [t.title for t in tables({"prediction": list(run._prediction())})]
    assert any(title.startswith("Table 3: robust") for title in titles)


def test_a_report_names_every_network(tmp_path):
    from purimetry.figures.report import _provenance

    (m, *_) = SyntheticRun(tmp_path / "out")._training()
    assert _provenance([m])["denoiser SHA-256"] == "e" * 64 and "velocity SHA-256" not in _provenance([m])
    m.run["weights_sha256"]["velocity"] = "f" * 64
    assert _provenance([m])["velocity SHA-256"] == "f" * 64
