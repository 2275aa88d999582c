"""Inverse problems with a score-based prior of 2D sections, for given sections of a volume: the row `ScoreMRI` of the paper.

Song et al. 2111.08005, and Chung & Ye 2110.05243, who do the same for undersampled MRI: an unconditional prior of sections along
one axis draws a volume section by section, every section by itself; at every reverse step its given pixels are replaced by
noised ones. Of given sections a prior of sections along another axis sees rows (sections: perpendicular, our kindest reading);
one of sections along the given ones' own axis (sections: parallel) draws all that are not given without having seen anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baselines.slice_prior import PriorSettings, fit_prior, load_prior, make_problem  # noqa: F401
from baselines.slice_sampling import Scheme, SliceReconstructor, axes_by_given
from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.planes import AnyPlane

SECTIONS = ("perpendicular", "parallel")


@dataclass(frozen=True)
class ScoreSampler:
    """sections: along the axis of which fewest sections are given (perpendicular), or most (parallel); weight: lambda of
    2111.08005, the share of the noised data in the given pixels."""

    sections: str = "perpendicular"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.sections not in SECTIONS:
            raise InputError("methods.*.params.sampler.sections", repr(self.sections), f"one of {SECTIONS}")
        if not 0 <= self.weight <= 1:
            raise InputError("methods.*.params.sampler.weight", self.weight, "a share in 0..1")

    def scheme(self, planes: Sequence[AnyPlane]) -> Scheme:
        axes = axes_by_given(planes)
        return Scheme((axes[0] if self.sections == "perpendicular" else axes[-1],), weight=self.weight)


@dataclass(frozen=True)
class Settings(PriorSettings):
    """Parameters of the method entry: the prior's, and how it is used, which does not train another one."""

    sampler: ScoreSampler = field(default_factory=ScoreSampler)


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train the prior on the training side, resuming from `workdir`'s folder."""
    return fit_prior(store, split, Settings.of(params), workdir)


def load(weights: Path) -> SliceReconstructor:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    return SliceReconstructor(load_prior(tensors, len(config["contrasts"]), settings), settings.sampler.scheme)
