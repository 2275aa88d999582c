"""What methods that learn by examples are shown: random observations of training volumes with the estimate that leaves
the patient out, and the subjects on which they are checked. Shared, so that methods differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xdiff import team
from xdiff.augment import Augmentation
from xdiff.data.split import Split, patient_of
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.gaussian_device import supports
from xdiff.kinds import Kinds
from xdiff.local import Core, Estimate
from xdiff.observation import (
    NotEnoughSections,
    Point,
    choose_planes,
    leaves_enough_unseen,
    observe,
    projection_point,
    well_filled,
)
from xdiff.planes import AXES, AXIS_NAMES, AnyPlane, Projection
from xdiff.registration import Warps, WarpSettings, fit_warps, mirrored
from xdiff.resident import Volumes, observe_on, read
from xdiff.view import View

ECHO = 4  # draws made between the uses of one in two places of a batch


@dataclass(frozen=True)
class DrawSettings(Kinds):
    """max_k: most given sections; repeats: steps for which a draw is used in a row in one place of the batch; donors: share of
    draws in which the volume first goes a random part of the way to another patient's shape (registration.py)."""

    max_k: int = 31
    repeats: int = 2
    donors: float = 0.0
    augment: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if not 0 <= self.donors <= 1:
            raise InputError("draws.donors", self.donors, "a share in 0..1")
        if self.donors and self.augment.symmetric:
            raise InputError("draws.donors", f"{self.donors} with augment.symmetric", "0: random fields have no shape to give")


@dataclass(frozen=True)
class Draw:
    """One training case in the observation's units, as tensors on the core's device: what is given, truth (C, X, Y, Z), what is
    known of it without a network, and the foreground (X, Y, Z)."""

    view: View
    truth: Tensor
    known: Estimate
    foreground: Tensor


class Draws:
    """Random cases from the training side, each a function of its generator alone, on the core's device.

    resident: the cohort stays on the device and cases are made there, without a copy to the CPU but for oblique sections; by
    default on a GPU.
    """

    def __init__(
        self,
        store: Store,
        subjects: Sequence[str],
        core: Core,
        settings: DrawSettings,
        resident: bool | None = None,
        warps: Warps | None = None,
    ) -> None:
        self.store, self.core, self.settings, self.warps = store, core, settings, warps
        self.subjects = list(subjects)
        patients = {patient_of(subject) for subject in subjects}
        if settings.donors and (warps is None or len(patients) < 3):  # two patients are left out of the core
            raise InputError("draws.donors", f"{settings.donors} with {len(patients)} patients", "warps, and three patients")
        self.resident = core.device.type == "cuda" if resident is None else resident
        self.volumes = Volumes(store, self.subjects, core.device, self.resident)
        self._recent: dict[tuple[int, int], Draw] = {}

    @classmethod
    def of_training(cls, store: Store, split: Split, core: Core, settings: DrawSettings, folder: Path) -> Draws:
        """Draws from the training side of a split, registered (and that kept in `folder`) where donors are asked for."""
        subjects = split.side("train")
        warps = fit_warps(store, subjects, WarpSettings(), folder, core.device) if settings.donors else None
        return cls(store, subjects, core, settings, warps=warps)

    def of_step(self, seed: int, step: int, count: int) -> list[Draw]:
        """The `count` draws of a training step. Making a draw costs as much as steps of a small network, so that each is used
        count x repeats times (data echoing, 1907.05550): for `repeats` steps in every place of the batch, its neighbours
        changing, and in the next place ECHO x repeats steps earlier. A function of seed and step alone; in several processes
        (team.py) those of this one's places."""
        repeats = self.settings.repeats
        numbers = team.own([(seed, (step + i * repeats // count) // repeats + ECHO * i) for i in range(count)])
        self._recent = {n: d for n, d in self._recent.items() if n >= numbers[0]}
        for number in numbers:
            if number not in self._recent:
                self._recent[number] = self.one(np.random.default_rng(number))
        return [self._recent[number] for number in numbers]

    def one(self, rng: np.random.Generator) -> Draw:
        subject = self.subjects[int(rng.integers(len(self.subjects)))]
        spacing = self.store.spacing_mm(subject)
        volume, foreground = self.volumes(subject)
        donor, warp = self._donor(subject, rng)
        if rng.random() < 0.5:  # left-right mirror image
            volume, foreground = volume.flip(1), foreground.flip(0)
            warp = None if warp is None else mirrored(warp)
        volume, foreground = self.settings.augment(volume, foreground, spacing, rng, warp)
        if self.store.projection:
            volume, planes = self._projected(volume)
            return self.case(subject, volume, foreground, planes, [self.store.projection.contrast], donor)
        planes = self._planes(rng, foreground.cpu().numpy(), spacing)
        return self.case(subject, volume, foreground, planes, self.settings.contrasts(self.store.contrasts, rng), donor)

    def _projected(self, volume: Tensor) -> tuple[Tensor, list[AnyPlane]]:
        """A volume (C, X, Y, Z) whose projection was bent with the rest and is made constant along its axis again; its plane."""
        c, axis = self.store.contrasts.index(self.store.projection.contrast), AXES[self.store.projection.axis]
        volume = volume.clone()
        volume[c] = volume[c].mean(dim=axis, keepdim=True)
        return volume, [Projection.of(axis, self.store.shape[axis])]

    def _donor(self, subject: str, rng: np.random.Generator) -> tuple[str | None, Tensor | None]:
        """Whose shape the volume takes, and the displacement (3, X, Y, Z) in voxels that gives it; mostly neither."""
        if not self.settings.donors or rng.random() >= self.settings.donors:
            return None, None
        others = [other for other in self.subjects if patient_of(other) != patient_of(subject)]
        donor = others[int(rng.integers(len(others)))]
        return donor, self.warps.between(subject, donor, rng.random())

    def case(
        self,
        subject: str,
        volume: Tensor,
        foreground: Tensor,
        planes: list[AnyPlane],
        given: list[str] | None = None,
        donor: str | None = None,
    ) -> Draw:
        """A volume of a subject, changed or not, seen through `planes`; its patient, and that of the subject whose shape it took,
        are left out of the core."""
        store, spacing = self.store, self.store.spacing_mm(subject)
        patients = tuple(patient_of(s) for s in (subject, donor) if s)
        if self.resident and supports(planes):
            carried = torch.tensor([given is None or name in given for name in store.contrasts], device=volume.device)
            view, sections, scale = observe_on(volume, planes, spacing, store.norm, carried)
            known = self.core.known_on_device(view, sections, patients)
        else:
            observation = observe(volume.cpu().numpy(), planes, store.contrasts, spacing, store.frame, store.norm, given)
            view, known = self.core.known(observation, patients)
            scale = torch.from_numpy(observation.scale).to(volume.device)
        return Draw(view, volume / scale[:, None, None, None], known, foreground)

    def _planes(self, rng: np.random.Generator, foreground: np.ndarray, spacing: tuple) -> list[AnyPlane]:
        """Few sections more often than many; a number that leaves too little unseen, or does not fit, is drawn again."""
        while True:
            k, axis = int(np.exp(rng.uniform(0, np.log(self.settings.max_k + 1)))), int(rng.integers(3))
            point = Point(k, AXIS_NAMES[axis], *self.settings.policy(rng), 1, "mean", int(rng.integers(2**31)))
            filled = well_filled(foreground, axis)
            try:
                planes = choose_planes(point, filled, None, spacing, "draw")
            except NotEnoughSections:
                continue
            if leaves_enough_unseen(planes, filled):
                return planes


def residual(draw: Draw) -> Tensor:
    """What is to be learned, (truth - corrected estimate) / its standard deviation: (C, X, Y, Z)."""
    return (draw.truth - draw.known.corrected) / draw.known.std


def importance(known: Estimate) -> Tensor:
    """Weights (C, X, Y, Z), 1 on average, with which a squared error of residuals is one of intensities."""
    square = known.std**2
    return square / square.mean(dim=(1, 2, 3), keepdim=True)


class Checks:
    """Fixed cases of validation subjects, and of as many training subjects, on which a network is scored in training."""

    def __init__(self, draws: Draws, split: Split, ks: Sequence[int], count: int) -> None:
        self.cases: list[tuple[str, int, Draw, float]] = []
        projection = draws.store.projection
        points = [Point(k, "axial", "uniform", 0.0, 1, "mean", 0) for k in ks]
        points = [projection_point(projection)] if projection else points
        given = [projection.contrast] if projection else None
        sides = {"validation": split.side("val")[:count], "training": draws.subjects[:count]}
        for side, subjects in sides.items():
            for subject in subjects:
                volume, foreground = read(draws.store, subject, draws.core.device)
                inside = foreground.cpu().numpy()
                for point in points:
                    try:
                        planes = choose_planes(point, inside, None, draws.store.spacing_mm(subject), subject)
                    except NotEnoughSections:
                        continue
                    if not leaves_enough_unseen(planes, inside):
                        continue
                    draw = draws.case(subject, volume, foreground, planes, given)
                    self.cases.append((side, point.K, draw, unseen_psnr(draw, draw.known.gaussian)))

    def score(self, reconstruct: Callable[[Draw], Tensor]) -> dict[str, dict[int, dict[str, float]]]:
        """side -> K -> mean PSNR (dB, region unseen) of `reconstruct(draw)` (C, X, Y, Z), and of the gaussian row."""
        found: dict[str, dict[int, list[tuple[float, float]]]] = {}
        for side, k, draw, base in self.cases:
            found.setdefault(side, {}).setdefault(k, []).append((unseen_psnr(draw, reconstruct(draw)), base))
        return {
            side: {k: dict(zip(("psnr", "gaussian"), np.mean(v, axis=0).round(4).tolist(), strict=True)) for k, v in by_k.items()}
            for side, by_k in found.items()
        }


def mean_gain(scores: dict[str, dict[int, dict[str, float]]]) -> float:
    """Mean over K of the gain over the gaussian row on the validation side, dB; 0 where there is no such side."""
    gains = [score["psnr"] - score["gaussian"] for score in scores.get("validation", {}).values()]
    return sum(gains) / len(gains) if gains else 0.0


def unseen_psnr(draw: Draw, volume: Tensor) -> float:
    """Squared error over all non-given voxels per non-given foreground voxel, in dB of the observation's scale."""
    hidden = ~(draw.view.mask & draw.view.given[:, None, None, None])
    squares = ((volume - draw.truth)[hidden] ** 2).sum() / (hidden & draw.foreground).sum()
    return float(-10 * torch.log10(squares))
