"""The command line: purimetry list | data NAME | train NAME | run NAME | reproduce | report DIR."""

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import hosts, progress
from .configuration import Configuration, default_data, quick
from .interrupt import insistent
from .pieces import Piece

EXPERIMENTS = {
    "training": "clean accuracy of the classifier, denoising error of noise predictor and flow",
    "rates": "expected compression rates by sampler, t*, eps and seed (Tables 2, 5, 6)",
    "minimum_perturbation": "minimum perturbations at clean images and anchors (Figs. 3b, S1)",
    "preflight": "checks of defence, gradient and attack before a robust accuracy is believed",
    "robust_accuracy": "robust accuracy with fixed randomness, two attacks (Table 2)",
    "prediction": "robust accuracy predicted without an attack, beside the measured one (Fig. 3a, Tables 3, 4)",
    "diagnosis": "why predictors fail where they fail: anchor shift, norm, anisotropy, nonlinearity",
    "randomness": "what varies in a purified image: its randomness against its input (Fig. 2, Tables S12, S13)",
    "randomness_evaluation": "robust accuracy with randomness fixed or not, transfer, EOT (App. C, Tables S2-S5)",
    "protocols": "robust accuracy of one defence under every protocol, gradient and attack (App. C)",
    "attack_peers": "our attacks beside AutoAttack's own: robust accuracy, seconds, model evaluations",
    "distances": "whether purification brings an image closer to its clean one (Fig. 1c, Tables 1, S7-S9)",
    "examples": "clean, adversarial and purified images, ordered by compression rate (Figs. S7, S8)",
    "anchors": "whether minimum perturbations at anchors are distributed as at clean images (Fig. S1)",
    "distribution": "distances to the clean set in feature spaces, do they order purifiers? (Fig. S5, Tables S10, S11)",
    "hypotheses": "the paper's claims with a verdict each: attraction, alignment, the rate's law, classifier",
    "rates_timesteps": "clean accuracy, rate and robust accuracy over the whole diffusion time (Fig. S6)",
    "rates_causes": "what respacing and the reverse variance contribute to the difference from Table 2's rates",
    "gaussian_field": "compression in a Gaussian's score field, exactly and to first order (Fig. 4a, b, Table S1)",
    "diffusion_steps": "compression of each step of the diffusion model, on and off the manifold (Fig. 4c, d)",
    "manifold": "what the purifier leaves on and off the data manifold, and where adversarial directions lie",
    "alp_sigma": "where ALP's learned latent noise ends, over five trials (alp Fig. 2)",
    "alp_matrix": "ALP under FGSM of three budgets at five noise levels: the robustness matrix (alp Sec. A)",
    "alp_tradeoff": "PSNR and defence accuracy of ALP against its noise (alp Fig. 3)",
    "alp_trials": "five trainings of ALP: mean, standard deviation, purified images (alp Fig. 5, App. A)",
    "alp_hierarchy": "ALP, adversarial training and both: robust accuracy, PSNR, latency (ALP Table II)",
    "alp_tsne": "does ALP return attacked images to their class in the classifier's features? (ALP Fig. 4)",
    "alp_protocols": "ALP under every protocol, gradient and attack, alone and as an ensemble",
    "alp_compression": "autoencoder purifiers beside diffusion: rates, SNR, Jacobians, predictors, robust accuracy",
    "alp_claims": "ALP's claims with a verdict each: gradient masking, sigma's optimum, speed, stability",
    "exact_theory": "rate, SNR, robust accuracy of known distributions: exact, estimated, as the paper approximates",
}
"""Every experiment, in an order in which each finds what it joins."""

MAIN = ("training", "rates", "minimum_perturbation", "preflight", "robust_accuracy", "prediction", "diagnosis")
"""What `reproduce` runs without `--all`."""


@dataclass(frozen=True)
class List:
    """Name the experiments."""


@dataclass(frozen=True)
class Data:
    """Get a data set from its authors, unless it is there, check it and say where it lies."""

    name: tyro.conf.Positional[Literal["cifar10", "cifar100"]]
    """The data set, 170 MB to download."""
    data_dir: Path = field(default_factory=default_data)
    """Folder of data sets (PURIMETRY_DATA)."""


@dataclass(frozen=True)
class Train:
    """Train a network of CIFAR-10 that comes with Purimetry anew, and write its weights and card.

    The classifiers take half an hour on 2 cores, the flow an hour, the denoiser longer. Needs the extra `peers`.
    """

    name: tyro.conf.Positional[Literal["classifier", "robust-classifier", "denoiser", "flow"]]
    """The network."""
    out: Path = Path("published")
    """Folder that gets it, in a folder of its own; a training that was interrupted resumes there."""
    data_dir: Path = field(default_factory=default_data)
    """Folder of data sets (PURIMETRY_DATA)."""


@dataclass(frozen=True)
class Run:
    """Run one experiment and whatever it needs that is not there yet."""

    name: tyro.conf.Positional[Literal[tuple(EXPERIMENTS)]]
    """The experiment."""
    forecast: bool = False
    """Only say how long it would take."""
    configuration: Annotated[Configuration, tyro.conf.arg(name="")] = field(default_factory=Configuration)


@dataclass(frozen=True)
class Reproduce:
    """Run the experiments, draw the figures and write the report."""

    all: bool = False
    """Every experiment of `purimetry list` instead of the main job's, more than half an hour on 2 cores."""
    quick: bool = False
    """A tour of two minutes on a small grid; its numbers are only indicative."""
    forecast: bool = False
    """Only say how long it would take; networks are trained first where they are not there yet."""
    configuration: Annotated[Configuration, tyro.conf.arg(name="")] = field(default_factory=Configuration)


@dataclass(frozen=True)
class DryRun:
    """Go the whole way of the paper's Table 4 (ImageNet) at a small size: random weights, generated images."""

    out: Path = Path("out-dry-run")
    """Folder of the weights and images that are made, and of the run with its report."""
    workers: int = 0
    """Processes that share the work; 0 is one a core on a CPU."""


@dataclass(frozen=True)
class Report:
    """Draw the figures and write the report of a finished or unfinished run."""

    folder: tyro.conf.Positional[Path]
    """The run's output folder."""


@dataclass(frozen=True)
class Benchmarks:
    """Time purification, gradient, rates and minimum perturbations on digits, against PyTorch.

    With --denoiser: purification and attack steps of that network on this device, and how long Table 2 takes.
    """

    denoiser: Path | None = None
    """Folder of a noise predictor for 32x32 colour images in diffusers' format."""
    images: int = 4
    """Colour images in one call; 64 or more keep an accelerator busy."""
    t_stars: tuple[int, ...] = (1, 2)
    """Steps of 1000 that are timed; 10 50 on an accelerator."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[DryRun, tyro.conf.subcommand("dry-run")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Benchmarks, tyro.conf.subcommand("benchmarks")]
)


def parsed(arguments: list[str] | None) -> Command:
    """The command that these arguments say; SystemExit, with what is wrong, where they say none."""
    words = [_decimal(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    return tyro.cli(Command, prog="purimetry", args=words, config=(tyro.conf.OmitArgPrefixes,))


def _decimal(word: str) -> str:
    """A fraction as a decimal, since budgets are told as 8/255."""
    part = re.fullmatch(r"(--[\w-]+=)?(\d+(?:\.\d+)?)/([1-9]\d*)", word)
    return f"{part[1] or ''}{float(part[2]) / int(part[3])!r}" if part else word


def console() -> int:
    """The command `purimetry`: `main` of its arguments; 130 when interrupted."""
    try:
        return main()
    except KeyboardInterrupt:
        try:
            print("interrupted; the same command resumes where it stopped", file=sys.stderr, flush=True)
            sys.stdout.flush()
        finally:
            # Raised within JAX it may have left broken what JAX frees at the end, where the process would crash.
            os._exit(130)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 on success, 1 on an error that the message explains. KeyboardInterrupt when interrupted."""
    warnings.showwarning = progress.warn
    try:
        with insistent():
            _execute(parsed(arguments))
    except (ValueError, TypeError, FloatingPointError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _execute(command) -> None:
    match command:
        case List():
            for name, summary in EXPERIMENTS.items():
                print(f"{name:22s}{summary}")
        case Data():
            from .datasets import obtain

            print(obtain(command.name, command.data_dir))
        case Train():
            print(json.dumps(_needing_peers("publish").train(command.name, command.out, command.data_dir), indent=1))
        case Run():
            _run([command.name], command.configuration, command.forecast)
        case Reproduce():
            configuration = quick(command.configuration) if command.quick else command.configuration
            if command.quick:
                print("quick tour: a small grid and little training; its numbers are only indicative")
            _run([name for name in EXPERIMENTS if command.all or name in MAIN], configuration, command.forecast)
        case DryRun():
            from .workers import reproducible

            reproducible()
            from . import dry_run

            configuration = replace(dry_run.prepared(command.out), workers=command.workers)
            print(dry_run.COMMAND)
            _run(list(dry_run.EXPERIMENTS), configuration)
        case Report():
            _report(command.folder)
        case Benchmarks() if command.denoiser is not None:
            from . import throughput

            throughput.main(command.denoiser, command.images, command.t_stars)
        case Benchmarks():
            _needing_peers("benchmarks").main()


def _needing_peers(name: str):
    """A module of this package that imports PyTorch."""
    try:
        return import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name} needs {error.name}; install the extra `peers`") from error


def _run(names: list[str], configuration: Configuration, only_forecast: bool = False) -> None:
    from .workers import reproducible, seldom_collect, workers

    reproducible()
    seldom_collect()
    hosts.join(configuration)
    import jax

    from ..compression.batches import calls_of
    from .forecast import forecast
    from .workbench import Unmet, Workbench

    if only_forecast:
        bench = Workbench(configuration, claim=False)
    else:
        bench = hosts.first_opens(configuration.out, lambda: Workbench(configuration))
    with workers(configuration) as processes, calls_of(configuration.batch):
        if (only_forecast or bench.large) and hosts.index() == 0:
            print(forecast(bench, names, processes.count * hosts.count()), flush=True)
        if only_forecast:
            return
        for number, name in enumerate(names, 1):
            print(f"[{number}/{len(names)}] {name}: {EXPERIMENTS[name]}", flush=True)
            experiment = import_module(f".{name}", __package__)
            try:
                processes.compute(name, experiment.pieces(bench), _pieces(bench, names[number:]))
                hosts.wait(f"pieces of {name}")
                if hosts.index() == 0:
                    experiment.run(bench)
                    bench.describe(name, experiment.__doc__)
            except Unmet as error:
                if len(names) == 1:
                    raise
                print(f"left out {name}: {error}", flush=True)
            jax.clear_caches()  # the next experiment compiles its own programs; keeping them all takes gigabytes
            hosts.wait(name)
    if hosts.index() == 0:
        _report(configuration.out)
    hosts.wait("report")


def _pieces(bench, names: list[str]) -> Iterator[tuple[str, list[Piece]]]:
    """Experiments and their pieces, of those that the run can meet."""
    from .workbench import Unmet

    for name in names:
        try:
            pieces = import_module(f".{name}", __package__).pieces(bench)
        except Unmet:
            continue
        yield name, pieces


def _report(folder: Path) -> None:
    from ..compression.records import read_records
    from ..figures.budgets import notes
    from ..figures.report import write_report

    print(f"report: {write_report(folder)}")
    for note in notes(read_records(folder)):
        warnings.warn(note, stacklevel=2)
