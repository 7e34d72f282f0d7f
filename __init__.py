"""Purimetry: how adversarial purifiers compress image space, and the robust accuracy that this predicts.

To begin with: `digits`, `cifar10`, `image_folder`, `npz` are images; `trained`, `published`, `ddpm_unet`,
`torch_classifier` are networks; `diffusion` with `ddpm`, `ddim`, `reverse_only` is a purifier, `configurations` its
fixed randomness; `rate_images`, `minimum_perturbations`, `kaplan_meier` measure, `by_survival` predicts, `preflight`
and `attack_images` judge.

Names are imported from where they are defined when they are first used, so that importing the package, and the command
line's `--help`, stay quick.
"""

from difflib import get_close_matches
from importlib import import_module

_HOME = {
    "compression.attacks.apgd": ("apgd", "apgd_targeted"),
    "compression.attacks.ddn": ("ddn",),
    "compression.attacks.ensemble": ("ensemble", "rand_attacks", "standard_attacks"),
    "compression.attacks.fab": ("fab",),
    "compression.attacks.fgsm": ("fgsm",),
    "compression.attacks.momentum": ("momentum",),
    "compression.attacks.pgd": ("pgd", "converged_pgd"),
    "compression.attacks.search": ("attack_images", "judge_images"),
    "compression.attacks.square": ("l2", "linf", "square"),
    "compression.attacks.transfer": ("transfer",),
    "compression.batches": ("NonFinite", "OutOfMemory", "calls_of", "over_images"),
    "compression.checks": ("check_images", "check_labels", "check_budget", "check_classifier", "check_purifier"),
    "compression.data.arrays": ("npz",),
    "compression.data.cifar": ("cifar10", "cifar100"),
    "compression.data.dataset": ("DataError", "Dataset", "Images"),
    "compression.data.digits": ("digits",),
    "compression.data.download": ("download",),
    "compression.data.image_folder": ("image_folder",),
    "compression.denoisers": ("from_score", "from_v", "from_x0"),
    "compression.detectors": ("MagNet", "reconstruction_errors", "rejection_threshold"),
    "compression.distances": (
        "cosine_distance", "frechet_distance", "frechet_distance_extrapolated", "jackknife", "jackknife_error",
        "kernel_distance", "l2_distance", "linf_distance", "psnr", "ssim",
    ),
    "compression.ensembles": (
        "Pooled", "ensemble_classifier", "majority_vote", "mean_of_logits", "mean_of_softmax",
    ),
    "compression.features": ("clip", "inception", "penultimate"),
    "compression.findings": ("Finding", "Findings", "PreflightError"),
    "compression.gradients": (
        "bpda", "eot", "expectation_over_randomness", "gradient", "gradient_agreement", "straight_through",
    ),
    "compression.hypothesis": ("Hypothesis",),
    "compression.jacobian": (
        "entropy_rank", "jacobian", "largest_singular_values", "participation_ratio", "push", "retained", "rms_rate",
        "rms_rate_hutchinson", "symmetric_spectrum",
    ),
    "compression.losses": ("cross_entropy", "defended", "dlr", "log_odds", "margin", "margins", "targeted_dlr"),
    "compression.manifold": (
        "chance", "denoiser_tangent", "inside", "isotropic", "local_pca", "outside", "principal_cosines", "share",
    ),
    "compression.networks.autoencoder": ("Autoencoder", "Variational"),
    "compression.networks.convnet": ("ConvNet",),
    "compression.networks.guided_unet": ("guided_unet",),
    "compression.networks.precision": ("in_precision",),
    "compression.networks.pure": ("Network", "pure"),
    "compression.networks.resnet": ("resnet18", "resnet20", "resnet50", "resnet56"),
    "compression.networks.unet": ("UNet",),
    "compression.networks.wide_resnet": ("wide_resnet",),
    "compression.prediction": (
        "by_survival", "extrapolated_margin", "first_order_margin", "fit_sigmoid", "image_wise", "likely_rivals",
        "predict_images", "short_attack",
    ),
    "compression.preflight": ("preflight",),
    "compression.protocol": (
        "BPDA", "FULL", "Protocol", "Row", "evaluate", "expectation", "fixed", "fresh", "strongest", "transferred",
        "vote", "while_optimising",
    ),
    "compression.purifiers.autoencoder": ("alp", "autoencoder", "reformer", "vae"),
    "compression.purifiers.diffusion": ("diffusion", "fewer_steps"),
    "compression.purifiers.flow": ("flow", "noise_of", "velocity_of"),
    "compression.purifiers.identity": ("identity",),
    "compression.purifiers.purify": ("purify",),
    "compression.randomness": ("configuration", "configurations", "paper_configuration", "paper_step_key"),
    "compression.rates": ("adversarial_rate", "compression_rate", "expected_rates", "rate_images"),
    "compression.records": ("Measurement", "read_records", "read_shards"),
    "compression.samplers": ("ddim", "ddpm", "ode", "one_step", "reverse_only", "sde"),
    "compression.schedules": ("Schedule", "cosine", "from_betas", "linear", "rectified", "respaced", "vp"),
    "compression.solvers": ("dpm", "dpm_singlestep", "heun"),
    "compression.statistics": ("bootstrap", "images_to_decide", "kolmogorov_smirnov", "log_rank", "spearman"),
    "compression.step_rates": ("step_rates",),
    "compression.survival": ("fit_zero_inflated_gaussian", "kaplan_meier", "minimum_perturbations"),
    "compression.torch_models": ("torch_classifier", "torch_denoiser", "torch_purifier"),
    "compression.trajectories": ("distances_along", "trajectory"),
    "compression.variance": ("mean_over_pairs", "stochasticity"),
    "compression.weights": ("ddpm_unet", "load_published", "velocity_unet"),
    "experiments.models": ("trained",),
    "experiments.published": ("published",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        meant = "".join(f"did you mean {close}? " for close in get_close_matches(name, __all__, 1))
        raise AttributeError(f"purimetry has no {name!r}; {meant}Its public names are {', '.join(__all__)}")
    return getattr(import_module(f".{_MODULE[name]}", __name__), name)


def __dir__():
    return __all__
