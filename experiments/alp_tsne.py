"""Whether ALP returns attacked images to their class in the classifier's features: a picture and a number (Fig. 4).

Command: purimetry run alp_tsne
Time: 30 seconds on 2 cores of an AMD EPYC, after ALP's training.
Expect: a return to the class that is the attack's ignorance. On digits at eps 0.2 (128 images) ALP at its learned sigma
takes back 40 ± 2 % of what an attack of the classifier alone adds to the distance from the class's centroid, and -6 ± 2
% of what an attack through ALP does; 34 ± 4 and 7 ± 2 % of the images are then nearest to their own centroid.

Features of the classifier's penultimate layer, of the first 128 images: clean, attacked, and attacked and purified by
ALP at its learned sigma and at the figure's sigma = 1. t-SNE (scikit-learn, one map for all of an attack) shows
neighbourhoods and no distances, so the realignment is also measured: the distance to the centroid of the image's class,
in units of a clean training image's mean distance to its own; how much of what the attack has moved an image away from
its centroid purification takes back, where it has clearly moved it; and the share of images whose nearest centroid is
their own class's. Centroids are of clean training images. The document does not say whether its attack knows the
purifier; here it is PGD-7 at the run's largest budget, once on the classifier alone, once through ALP with fresh draws
of its noise (EOT-20).
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.attacks.iterative import redrawn
from ..compression.attacks.search import attack_images
from ..compression.batches import over_images
from ..compression.gradients import eot
from ..compression.losses import cross_entropy, defended
from ..compression.purifiers.autoencoder import alp
from ..compression.purifiers.identity import identity
from ..compression.purifiers.purify import purify
from ..compression.records import Arrays, Measurement
from ..compression.statistics import bootstrap
from .adversarial import budget, together
from .alp_cells import ALP, lend
from .autoencoders import DRAWS, network, pgd_7, weights
from .pieces import Piece
from .progress import bar
from .workbench import Workbench, each

IMAGES = 128
"""Images that are mapped, the first of the run's, at most."""

SIGMAS = {"learned": None, "1": 1.0}
"""ALP's noise: its own, and the document's in Fig. 4."""

ATTACKS = ("classifier", "defence")
"""What the attack knows."""

TRAINING = 1000
"""Training images behind the centroids, the first, at most."""

CLEARLY = 3
"""Standard errors by which an attack must have moved images away for a share of that to be taken back."""

PERPLEXITY = 30.0
"""scikit-learn's own, less where there are few images."""


def purifiers(bench: Workbench) -> dict:
    """ALP by sigma."""
    return {name: alp(network(bench), sigma) for name, sigma in SIGMAS.items()}


def images(bench: Workbench, attack: str) -> Arrays:
    """The attacked images, and what ALP makes of them by sigma, each under a draw that no attack saw."""

    def compute() -> Arrays:
        x, labels, keys = bench.images[:IMAGES], bench.labels[:IMAGES], bench.keys()[:IMAGES]
        aware = attack == "defence"
        with bar(f"attack {attack}") as show:
            found = attack_images(partial(redrawn, pgd_7) if aware else pgd_7, bench.classifier,
                                  bench.purifier(ALP) if aware else identity, x, labels, keys, budget(bench),
                                  cross_entropy, together(x, DRAWS) if aware else None,
                                  view=partial(eot, draws=DRAWS) if aware else defended, confidence=np.inf,
                                  on_segment=lambda done, active: show(done))
        others = bench.keys(max(bench.configuration.seeds) + 1)[:IMAGES]
        return {"attacked": found.x,
                **{name: purify(purifier, found.x, others) for name, purifier in purifiers(bench).items()}}

    lend(bench)
    return bench.shard("alp_tsne", f"{attack}-images", compute)


def embedded(bench: Workbench, attack: str) -> Arrays:
    """Features [n, d] of clean, attacked and purified images, the map [n, 2] of each, and centroids [classes, d]."""

    def compute() -> Arrays:
        feature = partial(over_images, _feature, (bench.penultimate,))
        found = {name: feature(x) for name, x in {"clean": bench.images[:IMAGES], **images(bench, attack)}.items()}
        x, labels = (part[:TRAINING] for part in bench.training)
        known = feature(np.asarray(x))
        centroids = np.stack([known[labels == label].mean(0) for label in range(bench.dataset.classes)])
        spread = np.linalg.norm(known - centroids[labels], axis=1).mean()
        maps = dict(zip(found, np.split(mapped(np.concatenate(list(found.values()))), len(found)), strict=True))
        return {**found, **{f"map_{name}": at for name, at in maps.items()}, "centroids": centroids, "spread": spread}

    return bench.shard("alp_tsne", attack, compute)


def mapped(features: np.ndarray) -> np.ndarray:
    """t-SNE of features [n, d], from their two principal components: [n, 2]."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(features.astype(np.float32))


def pieces(bench: Workbench) -> list[Piece]:
    """Each attack."""
    return [Piece(attack, 1 + (attack == "defence"), partial(embedded, bench, attack)) for attack in ATTACKS]


def run(bench: Workbench) -> list[Measurement]:
    """Map and measure what each attack and ALP do."""
    found = [m for attack in each("features", list(ATTACKS)) for m in _measure(bench, attack)]
    return bench.write("alp_tsne", found, weights(bench))


def _measure(bench: Workbench, attack: str) -> Iterator[Measurement]:
    found, labels = embedded(bench, attack), bench.labels[:IMAGES]
    mean, at = partial(bench.mean, "alp_tsne"), {"known": attack, "eps": budget(bench)}
    away = {}
    for name in ("clean", "attacked", *SIGMAS):
        every = np.linalg.norm(found[name][:, None] - found["centroids"], axis=2)
        away[name] = every[np.arange(len(labels)), labels] / found["spread"]
        yield mean("distance", away[name], "mean distance of a clean training image", {**at, "of": name})
        yield mean("nearest", 100 * (every.argmin(1) == labels), "%", {**at, "of": name})
    further = away["attacked"] - away["clean"]
    moved = further.mean() > CLEARLY * further.std(ddof=1) / len(further) ** 0.5
    for name in SIGMAS:
        yield mean("return", away["attacked"] - away[name], "mean distance of a clean training image",
                   {**at, "of": name})
        if not moved:
            continue
        part = bootstrap(_taken_back, away["attacked"], away[name], away["clean"],
                         resamples=bench.configuration.bootstrap)
        yield bench.measurement("alp_tsne", "realignment", part.value, part.se, len(labels), "%", {**at, "of": name})


def _taken_back(attacked, purified, clean) -> float:
    """How much of the mean way from clean to attacked, measured from the centroid, is taken back, in %."""
    moved = attacked.mean() - clean.mean()
    return float(100 * (attacked.mean() - purified.mean()) / moved) if moved else 0.0


def _feature(feature, x):
    return feature(x)
