"""What the compression paper reports about distances to clean samples after purification (App. E.3)."""

SETTING = "CIFAR-10, PGD"
TABLE_S10 = {
    "ddpm": {10: 0.245, 20: 0.198, 50: 0.154, 100: 0.140, 150: 0.139},
    "reverse": {10: 0.192, 20: 0.150, 50: 0.161, 100: 0.184, 150: 0.201},
    "ddim": {10: 0.253, 20: 0.225, 50: 0.179, 100: 0.145, 150: 0.148},
}
"""Fréchet Inception distance of purified adversarial samples to clean ones, by t of 1000."""

TABLE_S11 = {
    "ddpm": {10: 0.0285, 20: 0.0249, 50: 0.0082, 100: -0.0162, 150: -0.0330},
    "reverse": {10: 0.0456, 20: 0.0359, 50: 0.0100, 100: -0.0135, 150: -0.0272},
    "ddim": {10: 0.0327, 20: 0.0333, 50: 0.0195, 100: 0.0009, 150: -0.0131},
}
"""By how much purification lowers the cosine distance to the clean sample in CLIP's space."""
