"""A DXA image onto the coronal grid of the MRI of the same person.

DXA (dual-energy X-ray absorptiometry) is a coronal projection of attenuation, in a frame of its own: the person lay on another
table. A similarity transform (shift, turn, scale) is sought at which the DXA is best explained, in least squares, by what the
MRI projects to: thickness of the body, fat, water, gas, and what looks like bone.

Registering to the subject's own MRI is a small leak: the place of the hidden volume is known then, as with frame `centred`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage
from skimage.filters import threshold_otsu

from xdiff.errors import InputError
from xdiff.volumes import spacing_of

COARSE_MM = 12.0
SCALES = (0.94, 1.0, 1.06)  # tried before the fine search
CANDIDATES = 4  # places that the fine search starts from
DETAIL_MM = 12.0
# Measured on phantom-body at 6 mm, 24 persons: with their own DXA >= 0.970 and 0.489, with another's (48 pairs) <= 0.961 and
# 0.441, mirrored <= 0.964 and 0.483 (hence the second fit below), upside down <= 0.731 and 0.159. Their own was laid on within
# 3 mm and 0.06 degrees. Real images will need thresholds of their own.
LEAST_CORRELATION, LEAST_DETAIL = 0.9, 0.465
MOST_BODY = 0.9  # of all voxels: a box full of signal shows nobody
LEAST_COVERED = 0.8  # of the MRI's silhouette that the DXA has to show
SIMPLEX = np.array([[0, 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 0.02, 0], [0, 0, 0, 0.02]], float)


class Registered(NamedTuple):
    """`image` (X, 1, Z) float32: the DXA on the MRI's coronal grid, 0 where it shows nothing; `correlation`: multiple correlation
    with the MRI's projections; `transform` (3, 3): (x, z, 1) in mm of the MRI to mm of the DXA."""

    image: np.ndarray
    correlation: float
    transform: np.ndarray

    @property
    def scale(self) -> float:
        return float(np.sqrt(np.linalg.det(self.transform[:2, :2])))

    @property
    def turn_deg(self) -> float:
        return float(np.rad2deg(np.arctan2(self.transform[1, 0], self.transform[0, 0])))


class _Grid(NamedTuple):
    """A coronal grid: world position of its first pixel and edge lengths (x, z) in mm."""

    origin: np.ndarray
    spacing: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray) -> _Grid:
        return cls(np.asarray(affine)[[0, 2], 3], spacing_of(affine)[[0, 2]])


def projections(fat: np.ndarray, water: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What volumes (X, Y, Z) project to, (7, X, Z) in mm: thickness of the body, fat and water (times their part of the brightest
    signal), gas, bone's cortex, red and yellow marrow; and the silhouette (X, Z) bool. Raises InputError where nobody is seen."""
    total = fat + water
    signal = ndimage.gaussian_filter(total, 0.7)
    body = signal > 0.5 * threshold_otsu(signal) if np.ptp(signal) else np.zeros(signal.shape, bool)
    parts, n = ndimage.label(body)
    if n == 0 or body.mean() > MOST_BODY:
        raise InputError("fat and water", "no body against a background", "volumes (X, Y, Z) of a person in air")
    body = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    # section by section: in the volume the airways connect the lungs with the outside
    body = np.stack([ndimage.binary_fill_holes(section) for section in np.moveaxis(body, 2, 0)], axis=2)
    edge = body & ~ndimage.binary_erosion(body, border_value=1)
    share = body.astype(np.float32)  # of a voxel that the body has; at the skin, what it has of its brightest neighbour's signal
    share[edge] = (total / np.maximum(ndimage.maximum_filter(total, 3), 1e-6))[edge]
    dark = body & (signal < 0.5 * np.median(signal[body]))
    gas = ndimage.binary_opening(dark, iterations=2)  # lungs and bowel; what is dark and thin is mostly cortex
    cortex = dark & ~gas
    fraction = fat / np.maximum(total, 1e-6)
    deep = ndimage.binary_erosion(body, iterations=3, border_value=1) & ~dark
    red = deep & (fraction > 0.2) & (fraction < 0.8)
    yellow = deep & (fraction >= 0.8) & ndimage.binary_dilation(cortex, iterations=2)
    top = np.percentile(total[body], 99.5)
    layers = (share, fat * body / top, water * body / top, gas, cortex, red, yellow)
    step_mm = spacing_of(affine)[1]
    return np.stack([step_mm * layer.sum(axis=1) for layer in layers]).astype(np.float64), body.any(axis=1)


def register_dxa(
    dxa: np.ndarray, dxa_affine: np.ndarray, fat: np.ndarray, water: np.ndarray, affine: np.ndarray, where: str = "DXA"
) -> Registered:
    """A DXA image (X', 1, Z') to the coronal grid of fat and water volumes (X, Y, Z), all RAS+; affines (4, 4) along x, y, z.

    Raises InputError, naming `where`, for arrays of other shapes, where the DXA shows too little of what the MRI shows, and where
    the fit is worse than any of a person's own: another subject, upside down, mirrored.
    """
    _check(dxa, dxa_affine, fat, water, affine, where)
    image, views = dxa[:, 0].astype(np.float64), projections(fat, water, affine)
    source, target = _Grid.of(dxa_affine), _Grid.of(affine)
    found = _fitted(image, source, views, target)
    covered, correlation, detail = found.covered, found.correlation, found.detail
    if covered < LEAST_COVERED:
        raise InputError(where, f"{covered:.0%} of the MRI's silhouette", f"a DXA that shows at least {LEAST_COVERED:.0%} of it")
    if correlation < LEAST_CORRELATION or detail < LEAST_DETAIL:
        raise InputError(
            where,
            f"an image that fits the MRI with a correlation of {correlation:.3f}, in details {detail:.3f}",
            f"at least {LEAST_CORRELATION} and {LEAST_DETAIL}, as of the same person, upright and not mirrored",
        )
    mirrored = _fitted(image[::-1], source, views, target)
    if mirrored.detail > detail:
        raise InputError(
            where,
            f"an image that fits the MRI with a correlation in details of {detail:.3f}, and {mirrored.detail:.3f} mirrored",
            "the patient's right at high x, as in RAS+",
        )
    registered = np.where(np.isnan(found.image), 0, found.image)[:, None].astype(np.float32)
    return Registered(registered, correlation, found.transform)


def _check(dxa: np.ndarray, dxa_affine: np.ndarray, fat: np.ndarray, water: np.ndarray, affine: np.ndarray, where: str) -> None:
    if dxa.ndim != 3 or dxa.shape[1] != 1 or min(dxa.shape[0], dxa.shape[2]) < 8:
        raise InputError(where, f"shape {dxa.shape}", "one coronal image, (X, 1, Z)")
    if fat.shape != water.shape or fat.ndim != 3:
        raise InputError(where, f"fat {fat.shape} and water {water.shape} beside it", "two volumes (X, Y, Z) of one shape")
    if not np.isfinite(dxa).all() or np.ptp(dxa) == 0:
        raise InputError(where, "no image (constant, or not finite)", "finite pixels of an absorptiometry")
    for name, one in (("DXA", dxa_affine), ("MRI", affine)):
        turned = np.asarray(one)[:3, :3] / spacing_of(one)
        if not np.allclose(turned, np.eye(3), atol=0.02):
            raise InputError(where, f"axes {turned.round(2).tolist()} of the {name}", "RAS+ axes without obliquity")


# ---------------------------------------------------------------- the fit


class _Found(NamedTuple):
    image: np.ndarray
    transform: np.ndarray
    covered: float
    correlation: float
    detail: float


def _fitted(image: np.ndarray, source: _Grid, views: tuple[np.ndarray, np.ndarray], target: _Grid) -> _Found:
    """The best place of a DXA (X', Z'): by silhouettes over all shifts, then by all features, coarse and fine."""
    fine = _Fit(image, source, *views, target)
    coarse = fine.coarser(COARSE_MM)
    best = max((_refined(coarse, start, 0.05) for start in _places(coarse)), key=coarse.correlation)
    best = _refined(fine, best, 0.005)
    values = fine.sampled(best)
    return _Found(values, _matrix(best, fine.pivot), fine.covered(best), fine.correlation(best), fine.detail(best))


class _Fit:
    """Parameters (shift x, shift z in mm, turn in radians, log scale) about the MRI's middle, and how well they fit."""

    def __init__(self, image: np.ndarray, source: _Grid, features: np.ndarray, body: np.ndarray, target: _Grid) -> None:
        blur = np.maximum(0.5 * np.sqrt(np.maximum((target.spacing / source.spacing) ** 2 - 1, 0)), 0.3)
        self.image, self.source, self.target = image, source, target
        self.smooth = ndimage.gaussian_filter(image, blur)
        self.features, self.body = features, body
        axes = [o + s * np.arange(n) for o, s, n in zip(target.origin, target.spacing, body.shape, strict=True)]
        self.pixels = np.stack(np.meshgrid(*axes, indexing="ij"))
        self.pivot = np.array([axis.mean() for axis in axes])
        self.design = np.concatenate([features.reshape(len(features), -1), np.ones((1, body.size))])

    def coarser(self, mm: float) -> _Fit:
        """The same on pixels of about `mm`."""
        step = np.maximum(1, np.round(mm / self.target.spacing)).astype(int)
        features = np.stack([_binned(f, step) for f in self.features])
        body = _binned(self.body.astype(float), step) > 0.5
        origin = self.target.origin + self.target.spacing * (step - 1) / 2
        return _Fit(self.image, self.source, features, body, _Grid(origin, self.target.spacing * step))

    def sampled(self, p: np.ndarray) -> np.ndarray:
        """The DXA at the MRI's pixels, (X, Z), NaN outside it."""
        matrix = _matrix(p, self.pivot)
        seen = np.einsum("ij,jxz->ixz", matrix[:2, :2], self.pixels) + matrix[:2, 2].reshape(2, 1, 1)
        index = (seen - self.source.origin.reshape(2, 1, 1)) / self.source.spacing.reshape(2, 1, 1)
        return ndimage.map_coordinates(self.smooth, index, order=1, mode="constant", cval=np.nan)

    def covered(self, p: np.ndarray) -> float:
        return float(np.isfinite(self.sampled(p))[self.body].mean())

    def correlation(self, p: np.ndarray) -> float:
        """Multiple correlation of the DXA with the features, over the grid; 0 below half coverage."""
        values = self.sampled(p).ravel()
        use = np.isfinite(values)
        return _multiple_correlation(values[use], self.design[:, use]) if use.mean() >= 0.5 else 0.0

    def detail(self, p: np.ndarray) -> float:
        """The same of what is finer than DETAIL_MM, inside the silhouette, which tells persons apart: edges do not count."""
        values = self.sampled(p)
        seen = self.body & np.isfinite(values)
        sigma = DETAIL_MM / self.target.spacing
        weight = np.maximum(ndimage.gaussian_filter(seen.astype(float), sigma), 1e-3)

        def fine(image: np.ndarray) -> np.ndarray:
            return image - ndimage.gaussian_filter(np.where(seen, image, 0), sigma) / weight

        use = ndimage.distance_transform_edt(seen, sampling=self.target.spacing) > DETAIL_MM
        details = np.stack([fine(f)[use] for f in self.features])
        return _multiple_correlation(fine(np.where(seen, values, 0))[use], np.concatenate([details, np.ones((1, use.sum()))]))


def _multiple_correlation(values: np.ndarray, design: np.ndarray) -> float:
    """Of values (n,) with the rows of a design (m, n), the last of which is constant."""
    y = values - values.mean()
    explained = design.T @ np.linalg.lstsq(design @ design.T, design @ y, rcond=1e-10)[0]
    return float(np.sqrt(max(0.0, 1 - ((y - explained) ** 2).sum() / max((y**2).sum(), 1e-12))))


def _matrix(p: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    cos, sin = np.exp(p[3]) * np.cos(p[2]), np.exp(p[3]) * np.sin(p[2])
    matrix = np.eye(3)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[:2, 2] = pivot + p[:2] - matrix[:2, :2] @ pivot
    return matrix


def _refined(fit: _Fit, start: np.ndarray, tolerance: float) -> np.ndarray:
    from scipy import optimize  # 0.1 s in every job of data, most of which read no DXA

    found = optimize.minimize(
        lambda p: -fit.correlation(p),
        start,
        method="Nelder-Mead",
        options={"initial_simplex": start + SIMPLEX, "xatol": tolerance, "fatol": 1e-7, "maxfev": 400},
    )
    return found.x


def _places(fit: _Fit) -> list[np.ndarray]:
    """Where the DXA's silhouette looks most like the MRI's: the highest peaks of their correlation over all shifts, at some
    scales."""
    peaks = []
    for scale in SCALES:
        step = fit.target.spacing * scale
        size = np.array(fit.image.shape) * fit.source.spacing
        axes = [np.arange(0, s, d) + fit.source.origin[i] for i, (s, d) in enumerate(zip(size, step, strict=True))]
        index = [(a - o) / d for a, o, d in zip(axes, fit.source.origin, fit.source.spacing, strict=True)]
        image = ndimage.map_coordinates(fit.smooth, np.meshgrid(*index, indexing="ij"), order=1, mode="nearest")
        outline = (image > 0.5 * threshold_otsu(image)).astype(float)
        score = _shift_scores(outline, fit.body.astype(float))
        for _ in range(2):
            at = np.unravel_index(np.argmax(score), score.shape)
            corner = fit.source.origin + (np.array(at) - np.array(fit.body.shape) + 1) * step
            middle = corner + step * (np.array(fit.body.shape) - 1) / 2
            peaks.append((score[at], np.array([*(middle - fit.pivot), 0.0, np.log(scale)])))
            score[tuple(slice(max(i - 3, 0), i + 4) for i in at)] = -1
    peaks.sort(key=lambda peak: -peak[0])
    return [place for _, place in peaks[:CANDIDATES]]


def _shift_scores(image: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Correlation coefficient (A + a - 1, B + b - 1) of a template (a, b) with an image (A, B), 0 around it, at every shift."""
    shape = [n + m - 1 for n, m in zip(image.shape, template.shape, strict=True)]
    ones = np.ones(template.shape)

    def slid(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return fft.irfft2(fft.rfft2(a, shape) * fft.rfft2(b[::-1, ::-1], shape), shape)

    centred = template - template.mean()
    n, total, squares = template.size, slid(image, ones), slid(image**2, ones)
    deviation = np.sqrt(np.maximum(squares - total**2 / n, 1e-6) * (centred**2).sum())
    return slid(image, centred) / deviation


def _binned(array: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Means over blocks of `step` pixels; what does not fill a block is cut off."""
    n, m = (size // s for size, s in zip(array.shape, step, strict=True))
    return array[: n * step[0], : m * step[1]].reshape(n, step[0], m, step[1]).mean(axis=(1, 3))
