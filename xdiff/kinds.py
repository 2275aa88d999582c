"""What kinds of given sections are drawn in training: policies, thick slices, some of the contrasts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THICK_MM = (2.0, 8.0)


@dataclass(frozen=True)
class Kinds:
    """Shares of the draws. orthogonal: sections divided among the three axes; tilted: a stack of oblique ones; of the rest,
    uniform: with the sweeps' policy, the others at random places, which may lie side by side. thick: slices of THICK_MM instead
    of thin ones (tilted ones are always thin); fewer: where there are several contrasts, with some of them given only."""

    uniform: float = 0.5
    orthogonal: float = 0.1
    tilted: float = 0.02
    thick: float = 0.1
    fewer: float = 0.5

    def policy(self, rng: np.random.Generator) -> tuple[str, float]:
        """Name of a policy and the thickness in mm, 0 for thin sections."""
        kind, thick = rng.random(), rng.random() < self.thick
        thickness_mm = float(rng.uniform(*THICK_MM)) if thick else 0.0
        if kind < self.tilted:
            return "tilted", 0.0
        if kind < self.tilted + self.orthogonal:
            return "orthogonal", thickness_mm
        return ("uniform" if rng.random() < self.uniform else "random"), thickness_mm

    def contrasts(self, names: tuple[str, ...], rng: np.random.Generator) -> list[str] | None:
        """Contrasts that the sections carry: any number of them, each as often as another; None for all."""
        if len(names) == 1 or rng.random() >= self.fewer:
            return None
        return [str(name) for name in rng.choice(names, int(rng.integers(1, len(names))), replace=False)]
