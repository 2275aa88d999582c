"""How well a mask agrees with the truth: voxel Dice, 95th percentile of the surface distance, and lesion by lesion.

Lesions are scored by the definition of BraTS 2023, adult glioma (https://github.com/rachitsaluja/BraTS-2023-Metrics, eval.py):

- components of the truth whose dilations by DILATION voxels touch are one lesion;
- a lesion is compared with all predicted components (26 neighbours) that overlap it, each of them as a whole;
- predicted components that overlap no lesion are false lesions: Dice 0 and MISSING_MM each;
- the score of a volume is the mean over the lesions above LEAST_MM3 and the false lesions.

What that definition leaves open is agreement on an empty mask: here, as in the challenge's later tables, Dice 1 and 0 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

MISSING_MM = 374.0  # of a lesion that is not found, and of a false one: the diagonal of BraTS' array
DILATION = 3  # times, with 18 neighbours: closer components are one lesion
LEAST_MM3 = 50.0  # smaller lesions of the truth do not count
PERCENT = 95
_FACES_AND_EDGES = ndimage.generate_binary_structure(3, 2)
_TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours


class Lesion(NamedTuple):
    """One lesion of the truth. hd95_mm is MISSING_MM where nothing predicted overlaps it."""

    voxels: np.ndarray  # (X, Y, Z) bool
    volume_mm3: float
    dice: float
    hd95_mm: float

    @property
    def found(self) -> bool:
        return self.dice > 0


@dataclass(frozen=True)
class LesionScores:
    """Lesions of one volume and region; `false_lesions`: how many predicted components overlap none of them."""

    lesions: tuple[Lesion, ...]
    false_lesions: int

    @property
    def counted(self) -> list[Lesion]:
        return [lesion for lesion in self.lesions if lesion.volume_mm3 > LEAST_MM3]

    @property
    def dice(self) -> float:
        number = len(self.counted) + self.false_lesions
        return sum(lesion.dice for lesion in self.counted) / number if number else 1.0

    @property
    def hd95_mm(self) -> float:
        number = len(self.counted) + self.false_lesions
        total = sum(lesion.hd95_mm for lesion in self.counted) + MISSING_MM * self.false_lesions
        return total / number if number else 0.0

    @property
    def recall(self) -> float:
        """Share of the counted lesions that are found at all; nan where there are none."""
        return sum(lesion.found for lesion in self.counted) / len(self.counted) if self.counted else float("nan")


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks of any shape; 1 where both are empty."""
    both = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / both if both else 1.0


def hd95_mm(predicted: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """The larger of the two directed 95th percentiles of the distance between the surfaces of masks (X, Y, Z), in mm.

    Percentiles go by surface area, as in DeepMind's surface-distance, which BraTS uses; the surface elements are those of MONAI's
    port of it. 0 where both masks are empty, MISSING_MM where one is.
    """
    import torch
    from monai.metrics.utils import get_mask_edges

    if not predicted.any() or not truth.any():
        return MISSING_MM if predicted.any() or truth.any() else 0.0
    # padded: surfaces at the array's rim are surfaces, too
    masks = [torch.from_numpy(np.pad(mask, 1)) for mask in _cropped(predicted, truth)]
    edges = get_mask_edges(*masks, crop=False, spacing=tuple(spacing_mm))
    there, other, areas, areas_of_other = (edge.numpy() for edge in edges)
    return max(_directed(there, areas, other, spacing_mm), _directed(other, areas_of_other, there, spacing_mm))


def _cropped(*masks: np.ndarray) -> list[np.ndarray]:
    box = ndimage.find_objects(np.logical_or.reduce(masks).astype(np.uint8))[0]
    return [mask[box] for mask in masks]


def _directed(surface: np.ndarray, areas: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """The 95th percentile, by area, of the distances from a surface to another one."""
    distance = ndimage.distance_transform_edt(~other, sampling=spacing_mm)[surface]
    order = np.argsort(distance)
    share = np.cumsum(areas[surface][order]) / areas[surface].sum()
    return float(distance[order][min(np.searchsorted(share, PERCENT / 100), len(order) - 1)])


def lesions_of(truth: np.ndarray) -> tuple[np.ndarray, int]:
    """(X, Y, Z) int, the number from 1 of the lesion that every voxel of the truth is of, and how many there are."""
    near = ndimage.binary_dilation(truth, _FACES_AND_EDGES, iterations=DILATION)
    numbers, count = ndimage.label(near, _TOUCHING)
    return numbers * truth, count


def score_lesions(predicted: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> LesionScores:
    """Scores of masks (X, Y, Z) bool, with voxels of `spacing_mm`."""
    numbers, count = lesions_of(truth)
    components, components_count = ndimage.label(predicted, _TOUCHING)
    lesions, overlapping = [], set()
    for number in range(1, count + 1):
        lesion = numbers == number
        parts = np.setdiff1d(components[lesion], 0)
        overlapping.update(parts.tolist())
        whole = np.isin(components, parts) if len(parts) else np.zeros_like(lesion)
        volume = float(lesion.sum() * np.prod(spacing_mm))
        lesions.append(Lesion(lesion, volume, dice(whole, lesion), hd95_mm(whole, lesion, spacing_mm)))
    return LesionScores(tuple(lesions), components_count - len(overlapping))
