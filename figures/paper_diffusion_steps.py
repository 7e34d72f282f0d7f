"""What the compression paper says of the steps of its diffusion model: Sec. 6.2, and Fig. 4d by its caption."""

FORWARD, FORWARD_T = 0.90, 100
"""The forward pass to t* = 100 (Sec. 6.2); it is alpha_bar, and Eq. 3 implies its root."""

TURN = "from off- to on-manifold"
"""How the rate of a random perturbation goes in the reverse process (Fig. 4d)."""
