"""Our attacks against AutoAttack's own: the same weights, images and budgets, attack by attack and as the ensemble.

Command: purimetry run attack_peers --data-dir DIR --resnet20 FILE
Time: about 25 minutes on 2 cores of an AMD EPYC, half of it AutoAttack's.
Expect: the ensembles leave the same images, but for one that only ours breaks; ours takes fewer evaluations everywhere.
Without compilation it takes 0.5 to 0.9 of AutoAttack's seconds on a purified classifier and on ResNet-20 at 1/255, a
seventh where all images break, and 1.1 to 1.5 of them on a bare digits classifier, whose PyTorch is faster. Attack by
attack ours leave no higher robust accuracy but in one of 32 cases: APGD-CE at the purified classifier, eps 0.2 (31.2
against 25.0 %). Square's are up to 12 points lower.

AutoAttack is the original by its package `pyautoattack` (Croce and Hein 2020), on PyTorch twins of our networks with
the same weights. Each attack of its version `standard` attacks the first 64 images by itself, and then all do in
their order, each those that the former ones left. The defences: the digits classifier, the one trained by TRADES, the
first behind the first sampler at the middle t* with one xi for all images (AutoAttack does not know which image it
asks about), and a published ResNet-20 on CIFAR-10. Each side's inputs are judged by its own copy of the networks.

Seconds are those of one core (CPU time of one thread). Ours compile every attack anew, which `compilation` says and
`seconds` includes; it depends on the network and not on the number of images. Evaluations are images on which the model
was asked, gradients included; AutoAttack's own checks of the model are among them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..compression.attacks.ensemble import Member, ensemble, standard_attacks
from ..compression.attacks.search import judge_images
from ..compression.batches import at_most, over_images
from ..compression.data.cifar import cifar10
from ..compression.data.dataset import DataMissing, Dataset
from ..compression.networks.pure import Network
from ..compression.networks.resnet import resnet20
from ..compression.purifiers.diffusion import parts
from ..compression.purifiers.identity import identity
from ..compression.records import Arrays, Measurement, digest
from ..compression.samplers import SAMPLERS
from ..compression.types import Classifier, Purifier
from ..compression.weights import load_published
from .compile_time import compilation
from .pieces import Piece
from .progress import bar
from .workbench import Cell, Unmet, Workbench, each

IMAGES = 64
"""Images that are attacked, the first of the run's, at most."""

CIFAR_EPS = (1 / 255, 8 / 255)
"""Budgets on CIFAR-10."""

ATTACKS = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
"""The attacks in their order, with AutoAttack's names."""

UNDEFENDED, TRADES, PURIFIED, RESNET20 = "undefended", "TRADES", "purified", "ResNet-20"
DEFENCES = (UNDEFENDED, TRADES, PURIFIED, RESNET20)
"""In order; what is called purified is in records by its sampler and t*."""

TOLERANCE = 1e-4
"""Largest difference of the twins' logits, relative to the largest logit: float32 through all layers and steps."""

ALL = "all"
"""The ensemble of them."""

COSTS = {"seconds": "s", "compilation": "s", "evaluations": "images", "gradients": "images"}
"""Their units, of all images together."""

LACKING = {
    "peers": "AutoAttack needs the `peers` extra (pip install 'purimetry[peers]').",
    "data_dir": "CIFAR-10 needs --data-dir (`purimetry data cifar10` downloads it).",
    "resnet20": "The ResNet-20 needs --resnet20 with its weights of akamaster/pytorch_resnet_cifar10, saved as a flat "
                "state dict (.safetensors or .pt).",
}
"""What to supply."""


class Defence(NamedTuple):
    """What is attacked.

    key: the xi of all images. twin: makes the same function in PyTorch, of [n, c, h, w].
    size: images in one of our compiled calls; more would wait longer for the few that stay unbroken.
    """

    images: np.ndarray
    labels: np.ndarray
    classifier: Classifier
    purifier: Purifier
    key: Any
    twin: Callable[[], Callable]
    size: int


def defences(bench: Workbench) -> dict[str, Callable[[], Defence]]:
    """How to make each defence, by name, of those that this run can."""
    cell = bench.middle_cells[0]
    found = {
        UNDEFENDED: (UNDEFENDED, lambda: _bare(bench, bench.classifier)),
        TRADES: (TRADES, lambda: _bare(bench, bench.networks.robust_classifier)),
        PURIFIED: (str(cell), lambda: _purified(bench, cell)),
        RESNET20: (RESNET20, lambda: _resnet20(bench)),
    }
    if {"data_dir", "resnet20"} & set(_lacking(bench)):
        del found[RESNET20]
    return dict(found[name] for name in DEFENCES if name in found)


def ours(bench: Workbench, name: str, eps: float, attack: str) -> Arrays:
    """Per image, whether it withstands our attack; with the cost of all images."""

    def compute() -> Arrays:
        d = defences(bench)[name]()
        keys = jnp.broadcast_to(d.key, len(d.images))
        jax.clear_caches()
        with bar(f"{attack} on {name}, eps {eps:g}, ours") as show:
            start, began, compiling = time.process_time(), time.perf_counter(), compilation()
            found = ensemble(d.classifier, d.purifier, d.images, d.labels, keys, eps,
                             version=partial(_version, bench, attack), size=d.size,
                             on_segment=lambda member, done, active: show(done, f"{member}, {active} images"))
            seconds, waited = time.process_time() - start, time.perf_counter() - began
            compiling = (compilation() - compiling) * seconds / waited  # the core's share of it, if it was not idle
        return {"robust": found.by < 0, "seconds": seconds, "compilation": compiling,
                "evaluations": found.evaluations.sum(), "gradients": found.gradients.sum()}

    return _shard(bench, name, eps, attack, "ours", compute)


def autoattack(bench: Workbench, name: str, eps: float, attack: str) -> Arrays:
    """The same of AutoAttack's."""

    def compute() -> Arrays:
        import torch
        from pyautoattack import AutoAttack

        from . import torch_twins as twins

        torch.set_num_threads(1)  # as ours has
        d = defences(bench)[name]()
        model, images, labels = twins.Counted(d.twin()), twins.tensor_images(d.images), torch.tensor(d.labels).long()
        _check(d, model(images).numpy())
        theirs = AutoAttack(model, norm="Linf", eps=eps, seed=0, version="standard")
        theirs.attacks_to_run = [ATTACKS[attack]] if attack in ATTACKS else list(ATTACKS.values())
        _shorten(theirs, bench.configuration.ensemble_steps, bench.configuration.square_queries)
        with bar(f"{attack} on {name}, eps {eps:g}, AutoAttack"):
            model.evaluations = model.gradients = 0
            start = time.process_time()
            found, _ = theirs.run_standard_evaluation(images, labels)
            seconds, evaluations = time.process_time() - start, model.evaluations
        robust = (model(found).argmax(1) == labels) & (model(images).argmax(1) == labels)
        return {"robust": robust.numpy(), "seconds": seconds, "compilation": 0.0, "evaluations": evaluations,
                "gradients": model.gradients}

    return _shard(bench, name, eps, attack, "autoattack", compute)


def clean(bench: Workbench, name: str) -> np.ndarray:
    """Whether each image is right without an attack."""

    def compute() -> Arrays:
        d = defences(bench)[name]()
        keys = jnp.broadcast_to(d.key, len(d.images))
        return {"margin": judge_images(d.classifier, d.purifier, d.images, d.labels, keys, d.size)}

    return bench.shard("attack_peers", f"{_file(bench, name)}-clean", compute)["margin"] < 0


def pieces(bench: Workbench) -> list[Piece]:
    """Each attack on each defence, ours and theirs; Unmet where AutoAttack would have no PyTorch twin to attack."""
    if bench.networks.given or bench.middle_cells[0].sampler not in SAMPLERS:
        raise Unmet("AutoAttack attacks PyTorch twins, which there are of the networks trained here behind "
                    f"{', '.join(SAMPLERS)}; take digits, and leave --classifier, --denoiser and --velocity out")
    return [
        Piece(name, 1, partial(side, bench, name, eps, attack))
        for name in defences(bench) for eps in _eps(bench, name) for attack in (*ATTACKS, ALL) for side in _sides()
    ]


def run(bench: Workbench) -> list[Measurement]:
    """Attack every defence with both, and compare them image by image."""
    found = [replace(m, run={**m.run, **_origin(bench, name)})
             for name in each("attacks beside AutoAttack's", list(defences(bench))) for m in _measure(bench, name)]
    bench.lacking("attack_peers", [LACKING[name] for name in _lacking(bench)])
    return bench.write("attack_peers", found)


def _measure(bench: Workbench, name: str) -> Iterator[Measurement]:
    c = bench.configuration
    yield bench.mean("attack_peers", "clean_accuracy", 100 * clean(bench, name), "%", {"defence": name})
    for eps in _eps(bench, name):
        for attack in (*ATTACKS, ALL):
            at = {"defence": name, "eps": eps, "attack": attack, "steps": c.ensemble_steps,
                  "queries": c.square_queries, "xi_attack": "fixed", "xi_test": "same"}
            found = {side.__name__: side(bench, name, eps, attack) for side in _sides()}
            for by, arrays in found.items():
                n = len(arrays["robust"])
                yield bench.mean("attack_peers", "robust_accuracy", 100 * arrays["robust"], "%", {**at, "by": by})
                for cost, unit in COSTS.items():
                    yield bench.measurement("attack_peers", cost, arrays[cost], None, n, unit, {**at, "by": by})
                others = [other["robust"] for side, other in found.items() if side != by]
                for other in others:
                    yield bench.measurement("attack_peers", "broken_alone", (~arrays["robust"] & other).sum(), None, n,
                                            "images", {**at, "by": by})


def _sides() -> list[Callable]:
    return [ours, autoattack] if "peers" not in _missing_peers() else [ours]


def _missing_peers() -> list[str]:
    return [] if all(find_spec(package) for package in ("torch", "pyautoattack")) else ["peers"]


def _lacking(bench: Workbench) -> list[str]:
    c = bench.configuration
    return [*_missing_peers(), *([] if _cifar10(c.data_dir) else ["data_dir"]), *([] if c.resnet20 else ["resnet20"])]


@cache
def _cifar10(folder: Path) -> Dataset | None:
    try:
        return cifar10(folder)
    except DataMissing:
        return None


def _eps(bench: Workbench, name: str) -> tuple[float, ...]:
    return CIFAR_EPS if name == RESNET20 else bench.configuration.eps


def _version(bench: Workbench, attack: str, classes: int, norm) -> tuple[Member, ...]:
    c = bench.configuration
    members = standard_attacks(classes, norm, steps=c.ensemble_steps, queries=c.square_queries)
    return members if attack == ALL else tuple(member for member in members if member.name == attack)


def _shorten(theirs, steps: int, queries: int) -> None:
    """Set the numbers of steps of an AutoAttack, and what APGD derives from its own."""
    for attack in (theirs.apgd, theirs.apgd_targeted):
        vars(attack).update(n_iter=steps, n_iter_2=max(int(0.22 * steps), 1), n_iter_min=max(int(0.06 * steps), 1),
                            size_decr=max(int(0.03 * steps), 1))
    theirs.fab.n_iter, theirs.square.n_queries = steps, queries


def _shard(bench: Workbench, name: str, eps: float, attack: str, by: str, compute: Callable[[], Arrays]) -> Arrays:
    file = f"{_file(bench, name)}-eps{eps:.4g}-{attack}-{by}"
    return bench.shard("attack_peers", file, lambda: {k: np.asarray(v) for k, v in compute().items()})


def _file(bench: Workbench, name: str) -> str:
    """Of a defence's shards; it says which weights, where the run's folder does not."""
    weights = _origin(bench, name).get("weights_sha256", {})
    return "-".join([name, *(sha256[:8] for sha256 in weights.values())])


def _origin(bench: Workbench, name: str) -> dict:
    """What the records of a defence carry in place of the run's own data and weights."""
    if name != RESNET20:
        return {}
    c = bench.configuration
    return {
        "configuration": {**c.determinants(), "dataset": "cifar10"}, "data_sha256": _cifar10(c.data_dir).fingerprint,
        "weights_sha256": {"classifier": _weights_sha256(c.resnet20)},
    }


@cache
def _weights_sha256(path: Path) -> str:
    return digest(load_published(path))


def _check(d: Defence, theirs: np.ndarray) -> None:
    """Raise unless the twin's logits are ours; attacks on different functions say nothing of each other."""
    keys = jnp.broadcast_to(d.key, len(d.images))
    given = over_images(_logits, (d.classifier, d.purifier), d.images, keys, size=d.size)
    error, largest = np.abs(given - theirs).max(), np.abs(given).max()
    if error > TOLERANCE * largest:
        raise AssertionError(f"ours and PyTorch's logits differ by {error:.1e}, expected {TOLERANCE * largest:.1e}")


def _logits(classifier, purifier, x, key):
    return classifier(purifier(x, key))


def _bare(bench: Workbench, classifier: Network) -> Defence:
    images, labels = bench.images[:IMAGES], bench.labels[:IMAGES]
    return Defence(images, labels, classifier, identity, bench.keys()[0], lambda: _convnet(classifier),
                   at_most(IMAGES, images))


def _purified(bench: Workbench, cell: Cell) -> Defence:
    bare, purifier = _bare(bench, bench.classifier), bench.purifier(cell)
    return bare._replace(purifier=purifier, twin=partial(_behind, purifier, bare), size=at_most(16, bare.images))


def _resnet20(bench: Workbench) -> Defence:
    data, arrays = _cifar10(bench.configuration.data_dir), load_published(bench.configuration.resnet20)
    images, labels = data.test_images[:IMAGES], data.test_labels[:IMAGES]
    return Defence(images, labels, resnet20(arrays), identity, bench.keys()[0], partial(_residual, arrays), 8)


def _convnet(classifier: Network) -> Callable:
    from .torch_twins import ConvNet

    return ConvNet(nnx.merge(classifier.graph, classifier.state)).requires_grad_(False)


def _residual(arrays) -> Callable:
    import torch

    from .torch_twins import ResNet20

    twin = ResNet20()
    twin.load_state_dict({**twin.state_dict(), **{name: torch.tensor(array) for name, array in arrays.items()}})
    return twin.eval().requires_grad_(False)


def _behind(purifier: Purifier, bare: Defence) -> Callable:
    """The twin behind a diffusion purifier whose noise is that of one xi for every image."""
    from . import torch_twins as twins

    predictor, steps, _ = parts(purifier)
    unet = twins.UNet(nnx.merge(predictor.graph, predictor.state)).requires_grad_(False)
    classifier, coefficients = bare.twin(), {name: np.asarray(c).tolist() for name, c in steps._asdict().items()}
    drawn = [twins.tensor_images(noise) for noise in twins.noises(len(steps.t), bare.images[:1], bare.key[None])]

    def forward(x):
        noise = iter(drawn)
        return classifier(twins.purify(unet, coefficients, x, lambda x: next(noise).expand_as(x)))

    return forward
