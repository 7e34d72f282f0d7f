"""Autoencoder purifiers as cells of a run, so that whatever measures a cell measures them: ALP and its relatives."""

from ..compression.purifiers.autoencoder import reformer, vae
from .autoencoders import at_sigma, network, purifier, variational
from .workbench import Cell, Workbench

ALP, STILL, VAE, MAGNET = (Cell(name, 0) for name in ("alp", "alp-still", "vae", "magnet"))
"""ALP at its learned sigma, the same network at sigma = 0, a VAE, and MagNet's reformer (reconstruction alone)."""

AUTOENCODERS = (ALP, STILL, VAE, MAGNET)

DIFFUSIONS = ("ddpm", "ddim")
"""Samplers that stand beside them, at the middle t*."""


def lend(bench: Workbench) -> None:
    """Let the run measure them; they are trained when first used."""
    bench.lend(ALP, lambda: purifier(bench))
    bench.lend(STILL, lambda: reformer(network(bench)))
    bench.lend(VAE, lambda: vae(variational(bench)))
    bench.lend(MAGNET, lambda: reformer(network(bench, at_sigma(0.0))))


def compared(bench: Workbench) -> list[Cell]:
    """The autoencoders, and those of the grid's diffusion purifiers that stand beside them."""
    lend(bench)
    grid = [cell for cell in bench.middle_cells if cell.sampler in DIFFUSIONS]
    return [*AUTOENCODERS, *(grid or bench.middle_cells[:1])]
