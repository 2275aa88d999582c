"""The stations of UK Biobank's neck-to-knee Dixon acquisition (field 20201): six overlapping stacks of axial sections, each as
in-phase, opposed-phase, fat and water volumes, 24 series in all.

SeriesDescription is Dixon_noBH_F (without breath-hold) or Dixon_BH_17s_F (with), and _W, _in, _opp: several stations share one,
so that they are told apart by where they lie. Descriptions as in https://github.com/BiomedSciAI/fuse-med-ml, examples for UK
Biobank; the protocol: Littlejohns et al. 2020, 10.1038/s41467-020-15948-9. Real archives were never at hand here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xdiff.data.dicom import ANONYMOUS, DESCRIPTION, DIRECTION_TOLERANCE, FRAME, PATIENT, Slice, by_series, read_slices, stack
from xdiff.errors import InputError
from xdiff.volumes import Volume, check_same_pose, spacing_of

N_STATIONS = 6
CONTRASTS = {"f": "fat", "w": "water", "in": "in", "opp": "opp"}
SERIES_NAME = re.compile(r"Dixon_.+_(F|W|in|opp)", re.IGNORECASE)
SAME_PLACE_MM = 5.0  # between the middles of two stacks of one station, far less than between stations
EID = re.compile(r"\d{7}")


@dataclass(frozen=True)
class Station:
    """One stack of sections: contrast -> (X, Y, Z) float32, all on the same voxels; `affine` (4, 4) to RAS mm.

    series: contrast -> SeriesInstanceUID. description: of its first series.
    """

    images: Mapping[str, np.ndarray]
    affine: np.ndarray
    series: Mapping[str, str]
    description: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.images.values())).shape

    @property
    def spacing_mm(self) -> np.ndarray:
        return spacing_of(self.affine)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3): unit vectors of the axes as columns, in RAS."""
        return self.affine[:3, :3] / self.spacing_mm

    @property
    def first_mm(self) -> np.ndarray:
        """(3,): the middle of the first voxel along the station's own axes."""
        return self.directions.T @ self.affine[:3, 3]

    @property
    def extent_mm(self) -> np.ndarray:
        """(3, 2): from the first voxel's outer face to the last one's, along the station's own axes."""
        low = self.first_mm - self.spacing_mm / 2
        return np.stack([low, low + self.spacing_mm * self.shape], axis=1)


def read_stations(folder: Path, eid: str, contrasts: Sequence[str]) -> tuple[list[Station], list[str]]:
    """The stations below `folder`, from the lowest to the highest, and the descriptions of series that are none.

    `contrasts` are read, and what is wrong with others goes unnoticed. Raises InputError for slices of two patients or of another
    one than `eid`, for what makes no volume, a series missing or there twice, other stations than six that overlap, and stations
    whose frames of reference or orientations differ.
    """
    slices = read_slices(folder)
    _check_patient(slices, eid, folder)
    volumes, unused = [], []
    for uid, series in by_series(slices).items():
        match = SERIES_NAME.fullmatch(series[0].tags[DESCRIPTION])
        if not match:
            unused.append(series[0].tags[DESCRIPTION])
        elif CONTRASTS[match[1].lower()] in contrasts:
            volumes.append(_Series(CONTRASTS[match[1].lower()], uid, series[0], stack(series)))
    if not volumes:
        raise InputError(folder, f"series {sorted(unused)}", "Dixon_noBH_F, Dixon_BH_17s_W and others like them")
    _check_frame([series.first for series in volumes])
    stations = [_station(group, contrasts, folder) for group in _by_place(volumes)]
    check_coverage(stations, folder)
    return stations, sorted(unused)


@dataclass(frozen=True)
class _Series:
    contrast: str
    uid: str
    first: Slice
    volume: Volume

    @property
    def middle_mm(self) -> np.ndarray:
        """(3,) in RAS."""
        half = (np.array(self.volume.shape) - 1) / 2
        return self.volume.affine[:3, :3] @ half + self.volume.affine[:3, 3]


def _check_patient(slices: Sequence[Slice], eid: str, folder: Path) -> None:
    """One patient, and the one that the file is named after, where PatientID is an EID."""
    first = slices[0]
    for one in slices:
        if one.tags[PATIENT] != first.tags[PATIENT]:
            raise InputError(one.path, f"PatientID {one.tags[PATIENT]!r}", f"{first.tags[PATIENT]!r} as {first.path.name}")
    patient = first.tags[PATIENT]
    if EID.fullmatch(patient) and not ANONYMOUS.fullmatch(patient) and patient != eid:
        raise InputError(folder, f"PatientID {patient}", f"{eid}, after whom the archive is named")


def _check_frame(slices: Sequence[Slice]) -> None:
    first = slices[0]
    for one in slices:
        if one.tags[FRAME] != first.tags[FRAME]:
            expected = f"{first.tags[FRAME]!r} as {first.path.name}: positions in one frame"
            raise InputError(one.path, f"FrameOfReferenceUID {one.tags[FRAME]!r}", expected)


def _by_place(volumes: Sequence[_Series]) -> list[list[_Series]]:
    """Series that lie in one place, from the lowest to the highest."""
    groups: list[list[_Series]] = []
    for series in sorted(volumes, key=lambda one: one.middle_mm[2]):
        if groups and np.linalg.norm(series.middle_mm - groups[-1][0].middle_mm) < SAME_PLACE_MM:
            groups[-1].append(series)
        else:
            groups.append([series])
    return groups


def _station(group: Sequence[_Series], contrasts: Sequence[str], folder: Path) -> Station:
    found: dict[str, _Series] = {}
    for series in group:
        if series.contrast in found:
            place = f"{series.first.tags[DESCRIPTION]} twice at height {series.middle_mm[2]:.0f} mm"
            both = f"{found[series.contrast].first.path.name} and {series.first.path.name}"
            raise InputError(folder, f"{place} ({both})", "each series once")
        found[series.contrast] = series
    missing = [contrast for contrast in contrasts if contrast not in found]
    if missing:
        raise InputError(
            folder, f"no {missing[0]} at height {group[0].middle_mm[2]:.0f} mm", f"series of {list(contrasts)} there"
        )
    volumes = {contrast: found[contrast].volume for contrast in contrasts}
    first = next(iter(volumes.values()))
    for contrast, volume in volumes.items():
        check_same_pose(Volume(volume.array, volume.affine, found[contrast].first.path), first)
    images = {contrast: volume.array for contrast, volume in volumes.items()}
    uids = {contrast: found[contrast].uid for contrast in contrasts}
    return Station(images, first.affine, uids, found[contrasts[0]].first.tags[DESCRIPTION])


def check_coverage(stations: Sequence[Station], where: Path) -> None:
    """Raise InputError unless six stations of one orientation each overlap the next one."""
    for station in stations[1:]:
        if np.abs(station.directions - stations[0].directions).max() > DIRECTION_TOLERANCE:
            found = f"a station with axes {station.directions.round(3).tolist()}"
            raise InputError(where, found, f"{stations[0].directions.round(3).tolist()} as the lowest one")
    tops = [station.extent_mm[2, 1] for station in stations]
    bottoms = [station.extent_mm[2, 0] for station in stations]
    for lower, upper in zip(tops, bottoms[1:], strict=False):
        if upper >= lower:
            found = f"a gap of {upper - lower:.0f} mm, from {lower:.0f} to {upper:.0f} mm"
            raise InputError(where, f"{len(stations)} stations with {found}", f"{N_STATIONS} stations, each overlapping the next")
    if len(stations) != N_STATIONS:
        found = f"{len(stations)} stations from {bottoms[0]:.0f} to {tops[-1]:.0f} mm"
        raise InputError(where, found, f"{N_STATIONS}, from neck to knee")
