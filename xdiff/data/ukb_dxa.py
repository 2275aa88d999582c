"""The whole-body image among a visit's DXA images (UK Biobank field 20158): a projection, without a place in the world.

It is the one of protocol `Total Body`: a soft-tissue image, and after it one of bone, whose pixels' size is that of the scanned
area by their number (https://github.com/rwindsor1/UKBiobankDXAMRIPreprocessing, which the order and the size follow). Real
archives were never at hand here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xdiff.data.dicom import PATIENT, SPACING, files_below, opened, pixels, tags_of
from xdiff.data.stations import EID
from xdiff.errors import InputError
from xdiff.volumes import canonical

PROTOCOL, DESCRIPTION, NUMBER = "0018|1030", "0008|103e", "0020|0013"
IMAGER_SPACING, AREA, DIRECTIONS = "0018|1164", "0040|0303", "0020|0020"
TAGS = (PATIENT, PROTOCOL, DESCRIPTION, NUMBER, SPACING, IMAGER_SPACING, AREA, DIRECTIONS)
WHOLE = re.compile(r"(total|whole)[ _-]?body", re.IGNORECASE)
NAMES = ("dxa", "dxa_bone")
BODY_MM = (1000.0, 2500.0)  # from head to feet; the scanned area, or less
UPRIGHT = {"L\\F": -1, "R\\F": 1}  # where columns and rows go: -> direction of x in RAS


@dataclass(frozen=True)
class Dxa:
    """`images`: dxa and, where there is one, dxa_bone, (X, 1, Z) float32; `affine`: the middle of the last row is the origin."""

    images: dict[str, np.ndarray]
    affine: np.ndarray
    record: dict[str, Any]


def read_dxa(folder: Path, eid: str) -> Dxa:
    """The whole-body images below a folder. Raises InputError where there is none, or more than two, for another patient than
    `eid`, and for pixels whose size is not known or gives no body."""
    found = []
    for path in files_below(folder):
        reader = opened(path)
        tags = tags_of(reader, TAGS)
        if EID.fullmatch(tags[PATIENT]) and tags[PATIENT] != eid:
            raise InputError(path, f"PatientID {tags[PATIENT]}", f"{eid}, after whom the archive is named")
        size = reader.GetSize()
        grey = reader.GetNumberOfComponents() == 1 and size[2:] in ((), (1,))
        found.append((path, tags, size[:2], grey))
    whole = [one for one in found if one[3] and WHOLE.search(f"{one[1][PROTOCOL]} {one[1][DESCRIPTION]}")]
    whole.sort(key=lambda one: int(one[1][NUMBER]) if one[1][NUMBER].isdigit() else 0)
    if not 1 <= len(whole) <= len(NAMES) or len({one[2] for one in whole}) != 1:
        names = sorted(one[1][PROTOCOL] or one[1][DESCRIPTION] for one in found)
        sizes = f"{len(whole)} grey whole-body images of sizes {sorted({one[2] for one in whole})}, among {names}"
        raise InputError(folder, sizes, "1 or 2 of protocol `Total Body`, of one size")
    path, tags, size, _ = whole[0]
    spacing, source = _spacing(path, tags, size)
    affine, assumed = _affine(path, tags, size, spacing)
    volumes = [canonical(pixels(one[0], size)[:, None, :], affine, one[0]) for one in whole]
    record = {"files": [one[0].name for one in whole], "spacing_mm": spacing, "spacing_from": source, "left_assumed": assumed}
    return Dxa({name: volume.array for name, volume in zip(NAMES, volumes, strict=False)}, volumes[0].affine, record)


def _spacing(path: Path, tags: dict[str, str], size: tuple[int, int]) -> tuple[list[float], str]:
    """Between columns and between rows, mm, and the tag it is from: ExposedArea has the width first."""
    for name, tag in (("PixelSpacing", SPACING), ("ImagerPixelSpacing", IMAGER_SPACING), ("ExposedArea", AREA)):
        try:
            first, second = (float(part) for part in tags[tag].split("\\"))
        except ValueError:
            continue
        spacing = [first / size[0], second / size[1]] if tag == AREA else [second, first]
        if min(spacing) <= 0 or not BODY_MM[0] <= spacing[1] * size[1] <= BODY_MM[1]:
            found = f"{name} {tags[tag]}: a scan of {spacing[1] * size[1]:.0f} mm"
            raise InputError(path, found, f"{BODY_MM[0]:.0f} to {BODY_MM[1]:.0f} mm from head to feet")
        return spacing, name
    raise InputError(path, "no PixelSpacing, ImagerPixelSpacing or ExposedArea of two numbers", "one of them")


def _affine(path: Path, tags: dict[str, str], size: tuple[int, int], spacing: list[float]) -> tuple[np.ndarray, bool]:
    """(4, 4) from (column, 0, row) to RAS mm, and whether the side of the left had to be assumed: to the right of the image."""
    directions = tags[DIRECTIONS].upper().replace(" ", "")
    if directions and directions not in UPRIGHT:
        raise InputError(path, f"PatientOrientation {tags[DIRECTIONS]}", f"one of {list(UPRIGHT)}")
    right = UPRIGHT[directions or "L\\F"]
    affine = np.diag([right * spacing[0], 1.0, -spacing[1], 1.0])
    affine[0, 3] = -right * spacing[0] * (size[0] - 1) / 2
    affine[2, 3] = spacing[1] * (size[1] - 1)
    return affine, not directions
