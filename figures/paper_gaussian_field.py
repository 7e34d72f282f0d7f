"""What the compression paper prints about its Gaussian score field: Table S1, and Fig. 4b as its caption tells it."""

SETTING = "Table S1"
TABLE_S1 = {"d": 3072, "d_in": 40, "on_std": 1.0, "off_std": 0.01, "step": 0.001, "steps": 100}
"""Dimension, intrinsic dimension, sigma_l, sigma_s, step size h_t, timesteps T."""

FIGURE_4B = "from the off- to the on-manifold value"
"""How the rate of a random perturbation goes."""
