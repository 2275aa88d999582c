"""Two perpendicular 2D diffusion priors for one volume, Lee et al. 2303.08440 (TPDM): the row of that name of the paper.

One 3D state; most steps denoise its sections along a first axis, every `every`-th one those along a second, so that what is drawn
is continuous in all directions, which one prior's sections are not (score.py). The priors are one network that is told the axis.
The data enter in the first prior's steps alone, by diffusion posterior sampling (consistency: dps, as in the paper), or by
replacing given voxels by noised ones in every step (project, as in score.py), which thick and oblique sections need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baselines.score import SECTIONS
from baselines.slice_prior import PriorSettings, fit_prior, load_prior, make_problem  # noqa: F401
from baselines.slice_sampling import Scheme, SliceReconstructor, axes_by_given
from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.planes import AnyPlane

CONSISTENCIES = ("dps", "project")


@dataclass(frozen=True)
class TPDMSampler:
    """sections: perpendicular, both axes across the given sections, so that all sections of both priors see rows of them; or
    parallel, the first prior's along the given sections' own axis, the second's across them. every: steps from one turn of the
    second prior to the next (K of 2303.08440). weight: project: share of the noised data in the given voxels; dps: the factor
    of the gradient."""

    sections: str = "perpendicular"
    consistency: str = "dps"
    weight: float = 1.0
    every: int = 2

    def __post_init__(self) -> None:
        for name, choices in (("sections", SECTIONS), ("consistency", CONSISTENCIES)):
            if getattr(self, name) not in choices:
                raise InputError(f"methods.*.params.sampler.{name}", repr(getattr(self, name)), f"one of {choices}")
        if self.every < 2:
            raise InputError("methods.*.params.sampler.every", self.every, "at least 2: the first prior has a turn, too")
        if self.weight < 0 or (self.consistency == "project" and self.weight > 1):
            raise InputError("methods.*.params.sampler.weight", self.weight, "a share in 0..1, or for dps a length >= 0")

    def scheme(self, planes: Sequence[AnyPlane]) -> Scheme:
        axes = axes_by_given(planes)
        pair = (axes[0], axes[1]) if self.sections == "perpendicular" else (axes[-1], axes[0])
        return Scheme(pair, self.every, self.consistency, self.weight)


@dataclass(frozen=True)
class Settings(PriorSettings):
    """Parameters of the method entry: the prior's, and how it is used, which does not train another one."""

    sampler: TPDMSampler = field(default_factory=TPDMSampler)


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train the prior on the training side, resuming from `workdir`'s folder."""
    return fit_prior(store, split, Settings.of(params), workdir)


def load(weights: Path) -> SliceReconstructor:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    return SliceReconstructor(load_prior(tensors, len(config["contrasts"]), settings), settings.sampler.scheme)
