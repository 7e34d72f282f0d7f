"""Functions of a user's own on the command line: FILE.py:NAME through the main job, and what is said when it fails."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import purimetry as pm
from purimetry.compression.records import read_manifest, read_records
from purimetry.experiments import alp_cells, own
from purimetry.experiments.command_line import MAIN, main
from purimetry.experiments.configuration import SAMPLERS, Configuration, quick
from purimetry.experiments.pieces import groups
from purimetry.experiments.workbench import Cell, Unmet, Workbench

MINE = """
import jax
import jax.numpy as jnp
import numpy as np
import purimetry as pm
from flax import nnx

digits = pm.digits()
MEANS = jnp.stack([digits.train_images[digits.train_labels == c].mean(0).ravel() for c in range(10)])


def blur(x, key):
    return x / 2 + (jnp.roll(x, 1, 0) + jnp.roll(x, 1, 1)) / 4


def noisy(x, key):
    return jnp.clip(0.8 * x + 0.1 + 0.05 * jax.random.normal(key, x.shape), 0, 1)


def logits(x):
    return 5 * (MEANS @ x.ravel() - (MEANS**2).sum(1) / 2)


def noise(x_t, t):
    return jnp.tanh(x_t) + t / 500


network = pm.pure(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
known = lambda x_t, t: network(x_t)


def ddpm(x, key):
    return x


alp = classifier = ddpm


def broken(x, key):
    wider = jnp.ones(3)
    return x.ravel() + wider


class Blur:
    pass


def pair(x, key):
    return x, x


def beyond(x, key):
    return 2 * x


def shares(x):
    return jax.nn.softmax(logits(x))


def one(x):
    return x.mean()


NUMBER = 3
of_v = pm.from_v(noise, pm.linear())
"""
CHEAP = ("--images", "4", "--seeds", "0", "--draws", "2", "--attack-steps", "2", "--attack-restarts", "1",
         "--paper-steps", "3", "--bootstrap", "10", "--workers", "1", "--eps", "0.1")


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def bench(tmp_path, **told):
    return Workbench(Configuration(out=tmp_path / "out", images=2, **told))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The main job on two functions of a file, behind a classifier of it."""
    folder = tmp_path_factory.mktemp("own")
    path = folder / "mine.py"
    path.write_text(MINE)
    told = ("--purifiers", f"{path}:blur", f"{path}:noisy", "--classifier", f"{path}:logits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what so short an attack leaves
        assert main(["reproduce", "--out", str(folder / "out"), "--cache", str(folder / "cache"), *CHEAP, *told]) == 0
    return folder / "out"


def test_the_main_job_measures_and_nothing_is_trained(run):
    assert {m.experiment for m in read_records(run)} == set(MAIN)
    assert not list((run.parent / "cache").glob("*"))
    for name in ("rates", "robust_accuracy", "prediction", "diagnosis"):
        assert {m.at.get("sampler", "none") for m in read_records(run, name)} - {"none"} == {"blur", "noisy"}


def test_its_rates_are_those_of_a_script(run):
    (found,) = [m for m in read_records(run, "rates")
                if m.quantity == "rate_l2" and m.at["sampler"] == "blur" and m.at["eps"] == 0.1]
    blur = lambda x, key: x / 2 + (jnp.roll(x, 1, 0) + jnp.roll(x, 1, 1)) / 4
    images, xi = pm.digits().test_images[:4], pm.configurations(0, range(4))
    alone = pm.rate_images(blur, images, xi, eps=0.1, draws=2).l2.mean
    assert found.value == pytest.approx(alone.mean(), rel=1e-5)  # float32
    assert set(found.run["weights_sha256"]) == {"classifier", "blur", "noisy"}
    assert found.at["t_star"] == 0 and found.run["configuration"]["samplers"] == []


def test_its_report_names_the_functions(run):
    report = (run / "report.html").read_text()
    assert "blur SHA-256" in report and "anchors of noisy" in report and "noise error" not in report


def test_they_stand_beside_the_samplers_that_are_told(mine, tmp_path):
    alone = bench(tmp_path, purifiers=(f"{mine}:blur",))
    both = bench(tmp_path / "both", purifiers=(f"{mine}:blur",), samplers=("ddim",), t_stars=(2, 5))
    assert alone.cells == alone.one_of_each == [Cell("blur", 0)] and not alone.networks.has_denoiser
    assert both.cells == [Cell("ddim", 2), Cell("ddim", 5), Cell("blur", 0)]
    assert both.middle_cells == [Cell("ddim", 5)] and both.one_of_each == [Cell("ddim", 5), Cell("blur", 0)]
    assert Configuration().resolved().samplers == SAMPLERS
    x, key = alone.images[0], alone.keys()[0]
    np.testing.assert_allclose(np.sum(jax.jit(alone.purifier(Cell("blur", 0)))(x, key)), x.sum(), rtol=1e-5)


def test_each_is_a_program_of_its_own(mine, tmp_path):
    pieces = bench(tmp_path, purifiers=(f"{mine}:blur", f"{mine}:noisy")).pieces(
        [Cell("blur", 0), Cell("noisy", 0), Cell("ddim", 2), Cell("ddpm", 2)], lambda bench, cell: iter(()))
    assert sorted(groups(pieces, workers=2)) == [[0], [1], [2, 3]]


def test_features_of_a_function_are_missed(mine, tmp_path):
    with pytest.raises(Unmet, match="a classifier of type Partial shows no features"):
        Workbench.penultimate.fget(bench(tmp_path, classifier=f"{mine}:logits"))


@pytest.mark.parametrize("part", ["grid", "middle_cells", "denoiser"])
def test_what_only_diffusion_has_is_missed_where_there_is_none(mine, tmp_path, part):
    with pytest.raises(Unmet, match="is about diffusion purifiers, and --samplers names none; name ddpm"):
        getattr(bench(tmp_path, purifiers=(f"{mine}:blur",)), part)


def test_a_noise_predictor_of_ones_own_is_sampled_with(mine, tmp_path):
    found = bench(tmp_path, denoiser=f"{mine}:noise", samplers=("ddim",), t_stars=(2,))
    x, key = found.images[0], found.keys()[0]
    alone = pm.diffusion(lambda x_t, t: jnp.tanh(x_t) + t / 500, pm.ddim(pm.respaced(pm.linear(), 100), 2))
    ours, theirs = (jax.jit(purifier)(x, key) for purifier in (found.purifier(Cell("ddim", 2)), alone))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)  # float32
    for name in ("noise", "of_v"):  # a schedule is no weights
        with pytest.raises(ValueError, match=f"bfloat16 rounds weights, and --denoiser mine.py:{name} shows none"):
            bench(tmp_path / "rounded", denoiser=f"{mine}:{name}", precision="bfloat16")
    network = own.given("--denoiser", f"{mine}:network", np.zeros((2, 2, 1), np.float32))
    own.check_precision("--denoiser", network, "bfloat16")


def test_the_records_key_changes_with_the_file_and_with_weights_that_it_loads(tmp_path):
    def of(code, weights):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        np.save(folder / "weights.npy", np.full(64, weights, np.float32))
        (folder / "loads.py").write_text(
            "import numpy as np\nfrom pathlib import Path\nW = np.load(Path(__file__).parent / 'weights.npy')\n" + code)
        return own.given("--classifier", f"{folder}/loads.py:f", np.zeros((8, 8, 1), np.float32)).sha256

    one = "import jax\nf = jax.jit(lambda x: x.ravel() * W)\n"
    assert of(one, 1) == of(one, 1)
    assert len({of(one, 1), of(one, 2), of(one + "# another", 1)}) == 3


CONFIGURED = """
import json
import jax
import jax.numpy as jnp
from pathlib import Path

A, STEPS, SLOPE = json.loads((Path(__file__).parent / "told.json").read_text())


def looped(x):
    return jax.lax.fori_loop(0, STEPS, lambda _, x: x / 2, x)


def chosen(x):
    return jax.lax.cond(x.sum() > 0, lambda: A, lambda: 1.0) * x


@jax.custom_jvp
def sloped(x):
    return x


sloped.defjvp(lambda primals, tangents: (primals[0], SLOPE * tangents[0]))


def hidden(x):
    return jax.pure_callback(lambda x: x, x, x)
"""


@pytest.mark.parametrize("name, other", [("looped", (2.0, 3, 1.0)), ("chosen", (3.0, 2, 1.0)),
                                         ("sloped", (2.0, 2, 0.5)), ("hidden", None)])
def test_the_records_key_changes_with_what_the_function_and_its_gradient_do(tmp_path, name, other):
    def of(told, home):
        (tmp_path / home).mkdir()
        (tmp_path / home / "told.json").write_text(str(list(told)))
        (tmp_path / home / "f.py").write_text(CONFIGURED)
        return own.given("--classifier", f"{tmp_path / home}/f.py:{name}", np.zeros((8, 8, 1), np.float32)).sha256

    one = of((2.0, 2, 1.0), "one")
    assert one == of((2.0, 2, 1.0), "again")
    assert other is None or one != of(other, "other")


def test_a_file_that_was_edited_is_run_again(tmp_path):
    file = tmp_path / "edited.py"
    found = []
    for factor in (2, 3):
        file.write_text(f"def f(x):\n    return {factor} * x\n")
        found.append(own.given("--classifier", f"{file}:f", np.float32(1)))
    assert [given.network(1.0) for given in found] == [2.0, 3.0] and found[0].sha256 != found[1].sha256


def test_what_a_file_draws_is_the_same_in_every_process(tmp_path):
    code = "import numpy as np\nimport random\nW = np.random.rand(), random.random()\nf = lambda x: x * sum(W)\n"
    found = []
    for home in ("one", "two"):
        (tmp_path / home).mkdir()
        (tmp_path / home / "draws.py").write_text(code)
        found.append(own.given("--classifier", f"{tmp_path / home}/draws.py:f", np.float32(1)))
    assert found[0].network(1.0) == found[1].network(1.0) and found[0].sha256 == found[1].sha256


def test_the_order_of_purifiers_is_the_runs(mine, tmp_path):
    """The first of them is attacked more strongly."""
    bench(tmp_path, purifiers=(f"{mine}:blur", f"{mine}:noisy"))
    with pytest.raises(ValueError, match=r"holds a run with other settings \(purifiers\)"):
        bench(tmp_path, purifiers=(f"{mine}:noisy", f"{mine}:blur"))


def test_an_experiments_own_purifier_does_not_take_a_users_place(mine, tmp_path):
    found = bench(tmp_path, purifiers=(f"{mine}:alp",))
    with pytest.raises(Unmet, match="--purifiers has a alp, the name of one that this experiment measures"):
        alp_cells.lend(found)
    x = np.random.default_rng(0).uniform(size=(8, 8, 1))
    assert found.purifier(Cell("alp", 0))(x, None) is x


def test_another_version_of_a_function_is_another_run(mine, tmp_path):
    bench(tmp_path, purifiers=(f"{mine}:blur",))
    (tmp_path / "newer").mkdir()
    newer = tmp_path / "newer" / "mine.py"
    newer.write_text(MINE.replace("/ 4", "/ 8"))
    with pytest.raises(ValueError, match=r"holds a run with other settings \(purifiers\)"):
        bench(tmp_path, purifiers=(f"{newer}:blur",))


def test_a_file_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "lies_beside_it.py").write_text("half = 0.5\n")
    (tmp_path / "imports.py").write_text("from lies_beside_it import half\ndef f(x, key):\n    return half * x\n")
    assert own.own("--purifiers", f"{tmp_path}/imports.py:f").function(4.0, None) == 2.0


def test_of_images_of_ones_own_there_are_as_many_as_there_are(mine, tmp_path):
    np.savez(tmp_path / "few.npz", images=np.random.default_rng(0).uniform(size=(3, 8, 8, 1)), labels=[0, 9, 4])
    told = dict(dataset=str(tmp_path / "few.npz"), purifiers=(f"{mine}:blur",), classifier=f"{mine}:logits")
    found = Workbench(Configuration(out=tmp_path / "out", **told))
    assert len(found.images) == 3 and found.folder.path.exists()
    assert read_manifest(tmp_path / "out")["configuration"]["images"] == 3
    assert quick(Configuration(**told)).images == 3
    with pytest.raises(ValueError, match="has 3 test images, got 4"):
        Workbench(Configuration(out=tmp_path / "more", images=4, **told))


@pytest.mark.parametrize("told, message", [
    ("nowhere.py:blur", "there is no file nowhere.py"),
    ("{mine}:Mine", "has no Mine; it has blur, noisy, logits, noise, network, known, ddpm, alp, "),
    ("{mine}:two words", r"expected FILE.py:NAME, a file of Python and a function in it"),
    ("mine.blur", r"expected FILE.py:NAME"),
    ("{mine}:NUMBER", "NUMBER is of type int, expected a function"),
    ("{mine}:pair", "--purifiers .*mine.py:pair: a purifier must return one image, got tuple"),
    ("{mine}:beyond", r"--purifiers .*mine.py:beyond: a purifier must return pixels in \[0, 1\], got \[0, 2\]"),
    ("{mine}:Blur", "Blur is the class Blur, expected a function"),
    ("{mine}:ddpm", "ddpm is taken; give it another name in its file"),
    ("{mine}:classifier", "classifier is taken; give it another name in its file"),
    ("{mine}:broken", r"mine.py, line 41: calling broken with 2 arrays of JAX failed with TypeError: .*\(64,\)"),
    ("{mine}:logits", r"calling logits with 2 arrays of JAX failed with TypeError: logits\(\) takes 1 positional arg"),
])
def test_what_cannot_be_measured_is_said_before_anything_is(mine, tmp_path, told, message):
    with pytest.raises((ValueError, TypeError), match=message):
        bench(tmp_path, purifiers=(told.format(mine=mine),))


def test_two_of_one_name_are_refused(mine, tmp_path):
    (tmp_path / "other.py").write_text(MINE)
    with pytest.raises(ValueError, match="blur is taken"):
        bench(tmp_path, purifiers=(f"{mine}:blur", f"{tmp_path}/other.py:blur"))


@pytest.mark.parametrize("code, message", [
    ("x = 1\ny = x / 0\n", "fails.py, line 2: running it failed with ZeroDivisionError: division by zero"),
    ("def f(:\n", "fails.py: running it failed with SyntaxError"),
    ("import no_such_package\n", "fails.py, line 1: running it failed with ModuleNotFoundError"),
    ("import sys\nsys.exit(3)\n", "fails.py, line 2: running it failed with SystemExit: 3"),
])
def test_a_file_that_fails_says_where(tmp_path, code, message):
    (tmp_path / "fails.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        own.own("--purifiers", f"{tmp_path}/fails.py:f")


def test_a_classifier_of_too_few_classes_is_refused(tmp_path, capsys):
    (tmp_path / "few.py").write_text("def few(x):\n    return x.ravel()[:3]\n")
    told = ("--classifier", f"{tmp_path}/few.py:few", "--out", str(tmp_path / "out"))
    assert main(["run", "rates", *told]) == 1
    assert "this few.py:few has 3 classes, 0..2; give the classifier of these images" in capsys.readouterr().err


@pytest.mark.parametrize("name, message", [
    ("shares", "--classifier .*mine.py:shares: the classifier returns probabilities"),
    ("one", r"a classifier maps one image, .* but this mine.py:one gives \(\) for one of \(8, 8, 1\)"),
])
def test_a_classifier_that_is_none_is_refused_before_anything_is_measured(mine, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        bench(tmp_path, classifier=f"{mine}:{name}")


def test_a_network_stays_one(mine):
    """So that compiled programs take its weights as an argument."""
    assert own.own("--denoiser", f"{mine}:network").function.graph is not None
    assert Path(own.own("--denoiser", f"{mine}:network").path).is_absolute()
