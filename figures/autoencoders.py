"""How autoencoder purifiers, and diffusion beside them, are named and coloured."""

from . import style
from .table import cell_name

NAMES = {"alp": "ALP", "alp-still": "ALP without noise", "vae": "VAE", "magnet": "MagNet's reformer"}
COLOURS = {"alp": style.VERMILION, "alp-still": style.ORANGE, "vae": style.PURPLE, "magnet": style.GREEN}


def name(cell: dict) -> str:
    """A purifier in words.

    >>> name({"sampler": "alp", "t_star": 0}), name({"sampler": "ddpm", "t_star": 5})
    ('ALP', 'DDPM at t* = 5')
    """
    return NAMES.get(cell["sampler"]) or cell_name(cell)


def colour(cell: dict) -> str:
    """The colour of a purifier."""
    return COLOURS.get(cell["sampler"]) or style.SAMPLER_COLOURS[cell["sampler"]]
