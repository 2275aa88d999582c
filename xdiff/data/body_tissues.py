"""What the tissues of the embedded body give in water and fat images, and how they attenuate X-rays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# UK Biobank's neck-to-knee Dixon protocol at 1.5 T (West et al. 2016, 10.1371/journal.pone.0163332)
REPETITION_MS, FLIP_DEG = 6.69, 10.0
FAT_T1_MS = 343.0


class Tissue(NamedTuple):
    """`water` and `fat`: proton density (pure water = 1) in the two signals; `t1_ms` of the water; `attenuation` per cm."""

    water: float
    t1_ms: float
    fat: float
    attenuation: float


# T1 at 1.5 T: de Bazelaire 2004 (10.1148/radiol.2303021331) for abdomen, muscle, marrow and fat; Stanisz 2005
# (10.1002/mrm.20605) for blood, heart and cord; bowel, disc, cartilage and urine rounded. Attenuation: Hubbell and Seltzer's
# tables (NIST) at 40 keV times density. Cortical bone and lung have hardly a signal at these echo times.
TISSUES = {
    "air": Tissue(0.00, 1000, 0.00, 0.00),
    "skin": Tissue(0.45, 900, 0.10, 0.28),
    "fat": Tissue(0.08, 600, 0.90, 0.23),
    "muscle": Tissue(0.78, 856, 0.03, 0.28),
    "cortical": Tissue(0.06, 600, 0.04, 1.28),
    "marrow": Tissue(0.80, 549, 0.00, 0.46),
    "disc": Tissue(0.62, 1000, 0.02, 0.29),
    "cartilage": Tissue(0.65, 1050, 0.02, 0.30),
    "cord": Tissue(0.75, 745, 0.03, 0.28),
    "csf": Tissue(1.00, 3500, 0.00, 0.27),
    "lung": Tissue(0.04, 1200, 0.00, 0.07),
    "blood": Tissue(0.92, 700, 0.00, 0.29),  # inflow shortens what is seen of a T1 of 1441 ms
    "heart": Tissue(0.80, 1030, 0.02, 0.28),
    "liver": Tissue(0.78, 586, 0.00, 0.28),
    "spleen": Tissue(0.84, 1057, 0.00, 0.28),
    "kidney": Tissue(0.85, 966, 0.00, 0.28),
    "medulla": Tissue(0.90, 1412, 0.00, 0.28),
    "pancreas": Tissue(0.70, 584, 0.10, 0.27),
    "bowel": Tissue(0.76, 950, 0.02, 0.27),
    "content": Tissue(0.55, 800, 0.05, 0.26),
    "urine": Tissue(1.00, 3000, 0.00, 0.27),
    "gland": Tissue(0.60, 900, 0.15, 0.27),
    "uterus": Tissue(0.85, 1309, 0.01, 0.28),
}


def spoiled_gradient_echo(t1_ms: float) -> float:
    """Signal of unit proton density (Ernst), T2* left out."""
    decay, flip = np.exp(-REPETITION_MS / t1_ms), np.deg2rad(FLIP_DEG)
    return float(np.sin(flip) * (1 - decay) / (1 - np.cos(flip) * decay))


def amounts(name: str, fat: float = 0.0) -> tuple[float, float, float]:
    """Water signal, fat signal and attenuation (1/cm); `fat`, a fraction, takes the place of so much of the water."""
    tissue = TISSUES[name]
    water, lipid = tissue.water * (1 - fat), tissue.fat + tissue.water * fat
    return water * spoiled_gradient_echo(tissue.t1_ms), lipid * spoiled_gradient_echo(FAT_T1_MS), tissue.attenuation
