"""A body as a function of position in mm, cut into six overlapping Dixon stations, and UK Biobank's archives of them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from dicom_files import write_slice
from scipy.special import expit

from xdiff.data.stations import Station

GAINS = (1.3, 0.8, 1.0, 1.25, 0.7, 1.1)
EID = "1234567"
SUFFIX = {"fat": "F", "water": "W", "in": "in", "opp": "opp"}
FRAME = "1.2.826.0.1.3680043.2.1125.99"
EDGE_MM = 3.0  # width of every edge


def ellipse(point: np.ndarray, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Share of an ellipsoid (or, with two radii, of a cylinder along z) at points (..., 3), with smooth edges."""
    n = len(radii)
    radius = np.sqrt((((point[..., :n] - np.array(centre)[:n]) / np.array(radii)) ** 2).sum(axis=-1))
    return expit((1 - radius) * min(radii) / EDGE_MM)


def body(point: np.ndarray, length_mm: float, rest: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Water and fat at points (..., 3) in RAS mm, from knees (z = 0) to neck: `rest` mm of fat about muscle, two legs below,
    liver, a fatty belly and a dark lung above."""
    z = point[..., 2] / length_mm
    trunk = expit((z - 0.32) * length_mm / 15)
    outer, inner = [], []
    for grown, out in ((0.0, outer), (-rest, inner)):
        legs = sum(ellipse(point, (side * 75, 0), (66 + grown, 72 + grown)) for side in (-1, 1))
        torso = ellipse(point, (0, 0), (155 + grown, 100 + grown))
        out.append(np.clip(trunk * torso + (1 - trunk) * legs, 0, 1))
    shell, inside = outer[0] - inner[0], inner[0]
    liver = ellipse(point, (55, 10, 0.68 * length_mm), (60, 50, 70))
    belly = ellipse(point, (-20, 35, 0.5 * length_mm), (60, 30, 60))
    lung = ellipse(point, (-55, 0, 0.82 * length_mm), (45, 55, 80)) * 0.95
    wave = 1 + 0.15 * np.sin(point[..., 2] / 23) * np.cos(point[..., 0] / 31)
    water = inside * (1 - lung) * (1 - 0.8 * belly) * (520 * wave + 250 * liver) + 40 * shell
    fat = (700 * np.clip(shell, 0, 1) + inside * (1 - lung) * (45 + 500 * belly)) * (0.95 + 0.05 * wave)
    return water, fat


def points_of(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """(X, Y, Z, 3) in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


def heights(sections: Sequence[int], gap_mm: float, overlap: int) -> list[float]:
    """The middle of the first section of stations that overlap by so many sections, the first at 0."""
    starts = np.concatenate([[0], np.cumsum([n - overlap for n in sections])[:-1]])
    return [float(s * gap_mm) for s in starts]


def stations(
    gains: Sequence[float] = GAINS,
    swapped: Iterable[int] = (),
    spacing_mm: float = 6.0,
    gap_mm: float = 8.0,
    sections: int = 16,
    overlap: int = 4,
    noise: float = 4.0,
    fat_mm: float = 20.0,
    contrasts: Sequence[str] = ("water", "fat", "in", "opp"),
) -> list[Station]:
    """Six stations, the lowest first. Every one has its own gain, its outermost sections in overlaps are weak (0.6 of the
    signal, as at a slab's end), and those of `swapped` have fat and water exchanged."""
    shape = (round(336 / spacing_mm), round(228 / spacing_mm), sections)
    found = []
    length_mm = gap_mm * (6 * (sections - overlap) + overlap)
    for i, z in enumerate(heights([sections] * 6, gap_mm, overlap)):
        affine = np.diag([spacing_mm, spacing_mm, gap_mm, 1.0])
        affine[:3, 3] = (-spacing_mm * (shape[0] - 1) / 2, -spacing_mm * (shape[1] - 1) / 2, z)
        water, fat = body(points_of(shape, affine), length_mm, fat_mm)
        profile = np.ones(sections)
        profile[[0] * (i > 0) + [-1] * (i < 5)] = 0.6
        rng = np.random.default_rng([7, i])
        noisy = [
            np.hypot(image * profile + rng.normal(0, noise, shape), rng.normal(0, noise, shape)) * gains[i]
            for image in (water, fat)
        ]
        water, fat = (noisy[::-1] if i in set(swapped) else noisy) if swapped else noisy
        images = {"water": water, "fat": fat, "in": water + fat, "opp": np.abs(water - fat)}
        images = {name: np.rint(images[name]).astype(np.float32) for name in contrasts}
        uids = {name: f"1.2.826.0.1.3680043.2.1125.7.{i}.{k}" for k, name in enumerate(images)}
        found.append(Station(images, affine, uids, "Dixon_noBH" if i in (0, 4, 5) else "Dixon_BH_17s"))
    return found


def write_station(folder: Path, station: Station, **more: object) -> None:
    """Axial sections, columns to the left and rows to the back, as a scanner writes them. `more` as of `write_slice`."""
    more = {"patient": EID, "frame": FRAME, **more}
    elements = {(0x0020, 0x0052): ("UI", more.pop("frame")), **more.pop("extra", {})}
    spacing, orientation = station.spacing_mm, more.pop("orientation", (1.0, 0, 0, 0, 1, 0))
    for contrast, image in station.images.items():
        turned = image[::-1, ::-1].transpose(2, 1, 0)
        first = station.affine[:3, :3] @ [image.shape[0] - 1, image.shape[1] - 1, 0] + station.affine[:3, 3]
        description = f"{station.description}_{SUFFIX[contrast]}"
        for k, pixels in enumerate(turned):
            ras = first + station.affine[:3, 2] * k
            tags = {"series": station.series[contrast], "description": description, "number": k + 1, "extra": elements, **more}
            path = folder / f"{tags['series']}.{k + 1}.dcm"
            write_slice(path, pixels, ras * (-1, -1, 1), orientation, spacing=(spacing[1], spacing[0]), **tags)


def pack(folder: Path, archive: Path) -> Path:
    """A flat zip of a folder's files with a manifest.cvs, as UK Biobank's are."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, path.name)
        opened.writestr("manifest.cvs", "filename,patientid,studyid\n")
    return archive


def write_archive(root: Path, work: Path, eid: str = EID, instance: int = 2, **more: object) -> Path:
    """EID_20201_2_0.zip of `stations(**more)`."""
    folder = work / f"{eid}_{instance}"
    for station in stations(**more):
        write_station(folder, station, patient=eid)
    return pack(folder, root / f"{eid}_20201_{instance}_0.zip")


def write_dxa(root: Path, work: Path, eid: str = EID, **more: object) -> Path:
    """EID_20158_2_0.zip: soft tissue and bone of the whole body, and a hip."""
    folder = work / f"{eid}_dxa"
    rows = np.linspace(0, 1000, 90)[:, None] + np.arange(36)
    protocols = more.pop("protocols", ("Total Body", "Total Body", "Left Femur"))
    for i, protocol in enumerate(protocols, 1):
        extra = {(0x0018, 0x1030): ("LO", protocol), (0x0040, 0x0303): ("US", b"\x94\x02\xbc\x07"), **more.get("extra", {})}
        options = {"patient": eid, "number": i, "description": "DXA", "drop": [(0x0028, 0x0030)], **more, "extra": extra}
        shape = rows if protocol == "Total Body" else rows[:20]
        write_slice(folder / f"1.2.840.113619.2.110.{i}.dcm", shape * i, (0, 0, 0), (1, 0, 0, 0, 1, 0), **options)
    return pack(folder, root / f"{eid}_20158_2_0.zip")


def without(found: Sequence[Station], *indices: int) -> list[Station]:
    return [station for i, station in enumerate(found) if i not in indices]


def small() -> list[Station]:
    """Six stations of a few large voxels: for what is found before anything is stitched."""
    return stations(spacing_mm=42.0, gap_mm=20.0, sections=4, overlap=1)


def truth(shape: Sequence[int], affine: np.ndarray, length_mm: float, gains: Sequence[float] = GAINS) -> dict[str, np.ndarray]:
    """Water and fat on a grid, as bright as stations are whose gains were matched about their geometric mean."""
    level = float(np.exp(np.log(gains).mean()))
    return {name: image * level for name, image in zip(("water", "fat"), body(points_of(shape, affine), length_mm), strict=True)}


def psnr(found: np.ndarray, true: np.ndarray) -> float:
    """dB, about the truth's 99.5th percentile."""
    peak = np.percentile(true, 99.5)
    return float(10 * np.log10(peak**2 / np.mean((found - true) ** 2)))
