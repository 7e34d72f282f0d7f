"""What the paper reports about randomness for DDPM at t = 100: Fig. 2, Tables S12 and S13 (50 images, eps 8/255)."""

from typing import NamedTuple

SAMPLER, T = "ddpm", 100


class Spread(NamedTuple):
    """A mean and what the paper writes after its plus-minus, the standard deviation over images as far as it says."""

    mean: float
    spread: float


TABLE_S12 = {"total": Spread(3.597e-3, 0.877e-3), "input": Spread(0.020e-3, 0.005e-3),
             "internal": Spread(3.578e-3, 0.873e-3)}
"""Variances, in squared pixels."""

SNR = Spread(5.926e-3, 1.065e-3)
"""Table S12's last column; 1/170."""

TABLE_S13 = {"initial": Spread(1.004, 0.001), "fixed_randomness": Spread(0.241, 0.032),
             "fixed_input": Spread(3.282, 0.453), "vary_both": Spread(3.288, 0.453)}
"""l2 radii, in pixels, by what is held; two headings exchanged as the text and Fig. 2 have them."""

FIGURE_2 = {"fixed_input": Spread(0.22, 0.003), "fixed_randomness": Spread(0.93, 0.0002)}
"""Mean correlations of purification directions (panels d and e)."""
