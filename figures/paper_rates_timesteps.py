"""What the compression paper says of the whole diffusion time (Fig. S6, App. E.5); it prints no numbers there."""

SETTING = "Fig. S6"
REGIMES = {"low": (0, 200), "medium": (200, 700), "high": (700, 1000)}
"""Of the reverse-only rate, in steps of 1000: it falls, rises, falls again."""

COURSE = {"ddpm": "falls everywhere", "reverse": "S-shaped: rises from t = 200 to 700"}
"""How the rate goes with t, by sampler."""
