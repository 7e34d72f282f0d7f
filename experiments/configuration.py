"""What a run can be told: every option with its unit and default. Imports nothing heavy, so `--help` is quick."""

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal


def default_cache() -> Path:
    """Where trained weights are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "purimetry"


def default_data() -> Path:
    """Where data sets lie that do not come with a package."""
    return Path(os.environ.get("PURIMETRY_DATA") or default_cache() / "data")


UNRECORDED = (
    "out", "cache", "reuse", "indices", "data_dir", "image_size", "workers", "coordinator", "hosts", "host", "batch",
    "inception", "clip", "resnet20", "classifier", "robust_classifier", "denoiser", "velocity", "purifiers",
)
"""Options that do not determine the records (the batch size does by rounding only), or of which records carry a
fingerprint."""

PUBLISHED = Path(__file__).parent.parent / "compression" / "published" / "cifar10"
"""Folder of the networks that come with Purimetry, each with a card of what it was made from and how good it is."""

CLASSIFIER, ROBUST_CLASSIFIER, DENOISER, FLOW = (
    "classifier/weights.safetensors", "robust-classifier/weights.safetensors", "denoiser", "flow")
"""Where they are in it."""

COLOUR = {
    "images": 48, "t_stars": (1, 2, 5), "eps": (2 / 255,), "draws": 4, "attack_restarts": 3,
    "eps_max": 8 / 255,
}
IMAGENET = {
    "images": 200, "subset_seed": 0, "t_stars": (10,), "eps": (4 / 255,), "draws": 4, "attack_restarts": 3,
    "eps_max": 16 / 255,
}
OWN = {
    "digits": {
        "images": 128, "t_stars": (1, 2, 5, 10, 15), "eps": (0.1, 0.2), "draws": 8, "attack_restarts": 10,
        "eps_max": 0.5,
    },
    "cifar10": {
        **COLOUR, "classifier": f"airbench:{PUBLISHED / CLASSIFIER}", "denoiser": f"diffusers:{PUBLISHED / DENOISER}",
        "robust_classifier": f"airbench:{PUBLISHED / ROBUST_CLASSIFIER}",
    },
    "cifar100": COLOUR,
}
"""What a data set takes for options that are not told: as much as a CPU affords, budgets where images are broken.

Images of one's own, which stand at no name here, take IMAGENET's: the paper's, but for its first images.
"""

SAMPLERS = ("ddpm", "reverse", "ddim")
"""The paper's, of a run that is told none."""

LEAST = {
    "images": 2, "image_size": 1, "respaced": 1, "t_stars": 1, "draws": 2, "attack_steps": 1, "attack_restarts": 1,
    "paper_steps": 1, "ensemble_steps": 1, "square_queries": 1, "bootstrap": 2, "batch": 1, "workers": 0, "seeds": 0,
}
"""The least that an option may be; standard errors need 2."""

POSITIVE = "eps", "eps_factors", "eps_max"
"""Options that lie above 0."""

ROBUST_EPS = {"digits": 0.15}
"""Budget of adversarial training by data set; 8/255 elsewhere."""


@dataclass(frozen=True)
class Training:
    """How the classifier and the denoiser are trained."""

    classifier_steps: int = 1500
    """Optimiser steps of the classifier, 128 images each."""
    denoiser_steps: int = 4000
    """Optimiser steps of the denoiser, 128 images each."""
    robust_steps: int = 1500
    """Optimiser steps of the adversarially trained classifier, 128 images each."""
    robust_eps: float | None = None
    """Budget of its adversaries, l_inf in pixel units (0.15 for digits, 8/255 otherwise unless told)."""
    robust_beta: float = 6.0
    """Weight of robustness against clean accuracy in its loss (TRADES)."""
    autoencoder_steps: int = 1000
    """Optimiser steps of each autoencoder, 64 images each."""
    classifier_channels: tuple[int, ...] = (16, 32)
    """Width of each level of the classifier."""
    denoiser_channels: tuple[int, ...] = (16, 32)
    """Width of each level of the denoiser."""
    seed: int = 0
    """Seed of initial weights, batches and noise."""


@dataclass(frozen=True)
class Configuration:
    """One run: data, grid, budgets and effort. All but folders, processes, hosts, the batch and files of weights
    determines the records."""

    out: Path = Path("out")
    """Folder of records, figures and the report; belongs to one configuration."""
    cache: Path = field(default_factory=default_cache)
    """Folder of trained weights, shared by runs; files are named by what determines them."""
    reuse: tuple[Path, ...] = ()
    """Folders of runs of the same settings but for images, samplers, t* and budgets: what they measured of an image is
    taken from there (rates, minimum perturbations, attacks, predictions) and measured of the others alone."""
    workers: int = 0
    """Processes of this host that share the work; 0 is one a core on a CPU and one in all on an accelerator."""
    coordinator: str | None = None
    """Of a run on several hosts: address and port of the first, such as 10.0.0.1:1234; or auto, where JAX finds all
    three in the environment (Slurm, Open MPI, Kubernetes, TPU)."""
    hosts: int = 1
    """Hosts that share the work, each started with this command, --out and --cache on a file system of all of them."""
    host: int = 0
    """Number of this host, 0 to hosts - 1; the first joins what all have computed."""
    batch: int | None = None
    """Images in one compiled call, on each device, or fewer where an experiment takes fewer (64, or as many of a large
    image as the device's memory holds, unless told)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the denoiser and of the velocity; the sampler around it and the classifier are float32 always."""
    dataset: str = "digits"
    """Images to measure on: digits, cifar10 or cifar100 (`purimetry data` gets CIFAR), or the path of one's own: a
    folder with a folder a class or labels.csv, or a file .npz of images and labels."""
    data_dir: Path = field(default_factory=default_data)
    """Folder of data sets (PURIMETRY_DATA): packed or unpacked archives of CIFAR's authors."""
    image_size: int = 256
    """Pixels of the central square that is kept of a folder's images, and of their shorter side before."""
    images: int | None = None
    """Test images in every cell of the grid, at least 2 (128 of the 500 digits, 48 of CIFAR's 10,000, 200 of one's own
    or as many as there are unless told)."""
    subset_seed: int | None = None
    """Seed of a random choice of the test images; the first ones unless told, of one's own seed 0."""
    indices: tuple[str, ...] = ()
    """Test images by their numbers instead of --images of them: 7, 0:48 for the first 48, or a file images.json of
    another run for its own; any of them together."""
    samplers: tuple[Literal["ddpm", "reverse", "ddim", "sde", "ode", "one_step", "dpm", "flow"], ...] | None = None
    """Samplers of the diffusion purifier (ddpm reverse ddim unless told, none beside --purifiers); dpm is DPM-Solver++
    in 20 steps, flow a rectified flow of as much noise: along --velocity; else along the velocity of a given
    --denoiser; else along one that is trained as the denoiser is."""
    purifiers: tuple[str, ...] = ()
    """Purifiers of one's own, FILE.py:NAME each: the file is run, and NAME is a function of an image and a key to an
    image, or one of PyTorch behind pm.torch_purifier. They are measured beside the --samplers that are told."""
    respaced: int = 100
    """Steps of the respaced schedule, a divisor of 1000."""
    t_stars: tuple[int, ...] | None = None
    """Purification steps, of the respaced schedule (1 2 5 unless told, for digits 10 15 as well, for one's own
    images 10)."""
    eps: tuple[float, ...] | None = None
    """Attack budgets, l_inf in pixel units, 0 to 1 (0.1 0.2 for digits, 2/255 for CIFAR, 4/255 for
    one's own unless told)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Base seeds of xi; attacks use the first, what is cheap uses all."""
    draws: int | None = None
    """Random perturbations for an expected rate (8 for digits, 4 otherwise unless told)."""
    eps_factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Perturbation sizes of the rate's dependence on eps, relative to the first budget."""
    attack_steps: int = 16
    """Steps of each restart of the converged attack."""
    attack_restarts: int | None = None
    """Restarts of the converged attack: the margin, then rival classes (10 for digits, 3 otherwise unless
    told)."""
    paper_steps: int = 40
    """Steps of the paper's attack."""
    ensemble_steps: int = 100
    """Steps of each attack of the standard ensemble (AutoAttack's)."""
    square_queries: int = 5000
    """Queries of its attack without gradients."""
    eps_max: float | None = None
    """Limit of the search for minimum perturbations, in pixel units (0.5 for digits, 8/255 for CIFAR, 16/255 for
    one's own, but at least twice the largest of --eps, at most 1, unless told)."""
    bootstrap: int = 1000
    """Resamplings of the images for intervals."""
    inception: Path | None = None
    """Weights of the FID's Inception (pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or .safetensors)."""
    clip: Path | None = None
    """Weights of CLIP (model.safetensors of openai/clip-vit-base-patch32)."""
    resnet20: Path | None = None
    """Weights of the ResNet-20 of akamaster/pytorch_resnet_cifar10 (a state dict): CIFAR-10's --classifier."""
    classifier: str | None = None
    """Classifier from a file instead of one trained here (of CIFAR-10, instead of the one that comes with Purimetry),
    ARCHITECTURE:FILE: airbench, resnet18, resnet20, resnet56 or wide-resnet of CIFAR, resnet50 or bottleneck-resnet of
    ImageNet (a state dict). Or FILE.py:NAME, a function of an image to logits. Of CIFAR-10, robust is the adversarially
    trained one that comes with Purimetry."""
    denoiser: str | None = None
    """Noise predictor from files, as the classifier: diffusers:FOLDER (or FOLDER alone) of a UNet2DModel, as
    google/ddpm-cifar10-32, or guided:FILE of guided diffusion's UNet (a state dict). Or FILE.py:NAME, a function of
    (x_t, t), with x_t in the diffusion's range and t of 1000, to the noise in it."""
    velocity: str | None = None
    """Velocity of the sampler flow from a file: diffusers:FOLDER (or FOLDER alone) of a UNet2DModel, or FILE.py:NAME, a
    function of ((1 - t) x_0 + t z, 999 t), with x_0 in [-1, 1], to z - x_0. Of CIFAR-10, published is the one that
    comes with Purimetry."""
    robust_classifier: str | None = None
    """As --classifier: the adversarially trained one, of the experiments that compare with it."""
    note: str = ""
    """What the report says at its top about this run, for example that it is a dry run; kept in the records."""
    training: Training = field(default_factory=Training)

    def __post_init__(self):
        for name in (*LEAST, *POSITIVE, "samplers"):
            told, option = getattr(self, name), f"--{name.replace('_', '-')}"
            values = told if isinstance(told, tuple) else () if told is None else (told,)
            if told == () and not (name == "samplers" and self.purifiers):
                raise ValueError(f"{option} is empty; name at least one")
            if name in LEAST and any(value < LEAST[name] for value in values):
                raise ValueError(f"{option} is at least {LEAST[name]}, got {min(values)}")
            if name in POSITIVE and not all(value > 0 for value in values):
                raise ValueError(f"{option} is above 0, got {min(values)}")
            if len(set(values)) < len(values):
                raise ValueError(f"{option} says the same twice, got {' '.join(map(str, values))}; say each once")
        if not 0 <= self.host < self.hosts:
            raise ValueError(f"--host is one of 0 to {self.hosts - 1} of --hosts {self.hosts}, got {self.host}")
        if self.coordinator != "auto" and (self.coordinator is None) != (self.hosts == 1):
            raise ValueError("several hosts need --hosts and --coordinator, the first's address and port, on each of "
                             f"them; got --hosts {self.hosts} --coordinator {self.coordinator}")
        if self.indices and (self.images is not None or self.subset_seed is not None):
            raise ValueError("--indices says which images; leave --images and --subset-seed out")
        for name in ("inception", "clip", "resnet20"):
            if (path := getattr(self, name)) is not None and not path.is_file():
                raise ValueError(f"--{name} {path}: there is no such file; download the weights, or leave it out")

    def resolved(self) -> "Configuration":
        """With the data set's own values of what was not told."""
        own = {name: value for name, value in OWN.get(self.dataset, IMAGENET).items() if getattr(self, name) is None}
        if self.indices:
            own = {name: value for name, value in own.items() if name not in ("images", "subset_seed")}
        if self.dataset == "cifar10" and self.resnet20 and not self.classifier:
            own["classifier"] = f"resnet20:{self.resnet20}"
        if self.dataset == "cifar10" and self.classifier == "robust":
            own["classifier"] = OWN["cifar10"]["robust_classifier"]
        if self.dataset == "cifar10" and self.velocity == "published":
            own["velocity"] = f"diffusers:{PUBLISHED / FLOW}"
        if self.training.robust_eps is None:
            own["training"] = replace(self.training, robust_eps=ROBUST_EPS.get(self.dataset, 8 / 255))
        if "eps_max" in own:  # for a rate may be above 1
            own["eps_max"] = max(own["eps_max"], min(1.0, 2 * max(self.eps or own["eps"])))
        own["samplers"] = self.samplers if self.samplers is not None else () if self.purifiers else SAMPLERS
        return replace(self, **{**own, "t_stars": tuple(sorted(self.t_stars or own["t_stars"]))})

    def determinants(self) -> dict:
        """What determines the records, as JSON-like values."""
        values = asdict(self.resolved())
        values["dataset"] = Path(self.dataset).resolve().name  # where it lies determines nothing
        return {name: values[name] for name in values if name not in UNRECORDED}


QUICK = "Quick tour: few images in every cell. Its numbers are only indicative; run without --quick for some to cite."
"""What the report says at its top of such a run."""


def quick(configuration: Configuration) -> Configuration:
    """A tour of two minutes on digits: fewer images, cells and training steps. Its numbers are only indicative.

    What was told is kept where it says what to measure; of what was not there is less.
    """
    told, full = configuration, configuration.resolved()
    most = 32 if full.dataset == "digits" else 8 if full.dataset in OWN else min(8, _available(full))
    return replace(
        full, note=full.note or QUICK, images=None if told.indices else told.images or min(full.images, most),
        t_stars=told.t_stars or (full.t_stars[len(full.t_stars) // 2],),  # each t* compiles for half a minute
        eps=told.eps or full.eps[:1], seeds=full.seeds[:2], draws=min(full.draws, 4),
        attack_steps=min(full.attack_steps, 8), attack_restarts=min(full.attack_restarts, 3), ensemble_steps=20,
        square_queries=200, bootstrap=200,
        training=replace(full.training, classifier_steps=300, denoiser_steps=600, robust_steps=300,
                         autoencoder_steps=300),
    )


def _available(configuration: Configuration) -> int:
    """How many images of one's own there are."""
    from .datasets import read

    return len(read(configuration.dataset, configuration.data_dir, configuration.image_size).test_images)
