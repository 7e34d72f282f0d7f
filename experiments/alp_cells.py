"""Autoencoder purifiers as cells of a run, so that whatever measures a cell measures them: ALP and its relatives."""

from ..compression.networks.pure import Network
from ..compression.purifiers.autoencoder import alp, reformer, vae
from . import models
from .workbench import Cell, Workbench

ALP, STILL, VAE, MAGNET = (Cell(name, 0) for name in ("alp", "alp-still", "vae", "magnet"))
"""ALP at its learned sigma, the same network at sigma = 0, a VAE, and MagNet's reformer."""

AUTOENCODERS = (ALP, STILL, VAE, MAGNET)

OWN = models.Bottleneck()
"""ALP's network."""

RECONSTRUCTION = models.Bottleneck(sigma=0.0, learned=False, pixel_noise=0)
"""MagNet's: no noise, no rate."""

DRAWS = 20
"""Of the ensemble (alp Eq. 3)."""

DIFFUSIONS = ("ddpm", "ddim")
"""Samplers that stand beside them, at the middle t*."""


def network(bench: Workbench, bottleneck: models.Bottleneck = OWN, make=models.autoencoder) -> Network:
    """A trained autoencoder of the run; ALP's unless told."""
    return make(bench.configuration.training, bench.dataset, bench.configuration.cache, bottleneck)[0]


def lend(bench: Workbench) -> None:
    """Let the run measure them; they are trained when first used."""
    bench.lend(ALP, lambda: alp(network(bench)))
    bench.lend(STILL, lambda: reformer(network(bench)))
    bench.lend(VAE, lambda: vae(network(bench, make=models.variational)))
    bench.lend(MAGNET, lambda: reformer(network(bench, RECONSTRUCTION)))


def compared(bench: Workbench) -> list[Cell]:
    """The autoencoders, and those of the grid's diffusion purifiers that stand beside them."""
    lend(bench)
    grid = [cell for cell in bench.middle_cells if cell.sampler in DIFFUSIONS]
    return [*AUTOENCODERS, *(grid or bench.middle_cells[:1])]
