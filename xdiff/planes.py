"""Planes and what they do to a volume: cutting (A), putting back (A^T), evidence, distance, projection.

With stacks.py, seen.py and rotations.py the only place that knows axes. Volumes are (C, X, Y, Z) in RAS+ order, numpy or torch
(axis-aligned operations are pure indexing and work on both; oblique ones are sparse matrices and need numpy). A section of an
axis-aligned plane is (C, h, w), the two remaining axes in increasing order. Notation as in the method's statement: observation
y = {(p_k, s_k)}, W = A^T 1, mask M = [W > 0], evidence E = W+ A^T y, Delta = distance in mm to the nearest given plane.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xdiff.errors import InputError

if TYPE_CHECKING:  # imported where oblique sections need it: 0.1 s in every job, most of which have none
    from scipy import sparse

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
AXIS_NAMES = ("sagittal", "coronal", "axial")

Array = Any  # numpy.ndarray or torch.Tensor


@dataclass(frozen=True)
class Plane:
    """An axis-aligned section: `index` along `axis` (0 sagittal, 1 coronal, 2 axial), a box average of `thickness` sections.

    thickness = 1 is one row of voxels (exact indexing); 2.5 averages the voxels that a 2.5-voxel-thick box covers.
    """

    axis: int
    index: int
    thickness: float = 1.0

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise ValueError(f"axis is {self.axis}, expected 0 (sagittal), 1 (coronal) or 2 (axial)")
        if self.thickness < 1:
            raise ValueError(f"thickness is {self.thickness} sections, expected at least 1")

    @property
    def thin(self) -> bool:
        return self.thickness == 1

    @property
    def name(self) -> str:
        return f"{AXIS_NAMES[self.axis]}:{self.index}" + ("" if self.thin else f"x{float(self.thickness)!r}".removesuffix(".0"))

    @property
    def place(self) -> str:
        """Where along its axis, for tables."""
        return str(self.index)

    @property
    def exact(self) -> bool:
        """Whether it says what voxels are; a thick section only says what they are on average."""
        return self.thin

    def profile(self, length: int) -> list[tuple[int, float]]:
        """(row, weight) pairs of the box average along the axis; weights add up to 1, rows outside the volume are dropped."""
        if not 0 <= self.index < length:
            raise ValueError(f"section {self.index} of the {AXIS_NAMES[self.axis]} axis, expected 0..{length - 1}")
        half = self.thickness / 2
        rows = range(max(0, int(self.index - half)), min(length, int(np.ceil(self.index + half)) + 1))
        overlap = [(r, min(r + 0.5, self.index + half) - max(r - 0.5, self.index - half)) for r in rows]
        total = sum(w for _, w in overlap if w > 1e-9)
        return [(r, w / total) for r, w in overlap if w > 1e-9]

    def cut(self, volume: Array) -> Array:
        """Section (C, h, w) of `volume` (C, X, Y, Z)."""
        rows = self.profile(volume.shape[self.axis + 1])
        if len(rows) == 1:
            return volume[_at(self.axis, rows[0][0])]
        return sum(volume[_at(self.axis, r)] * w for r, w in rows)

    def spread(self, section: Array, volume: Array) -> None:
        """Add the adjoint of `cut` applied to `section` to `volume`, in place."""
        for r, w in self.profile(volume.shape[self.axis + 1]):
            volume[_at(self.axis, r)] += section * w

    def distance_mm(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
        """Distance (X, Y, Z), broadcastable along the other axes, from every voxel to the slab, 0 inside it."""
        rows = np.abs(np.arange(shape[self.axis]) - self.index) - (self.thickness - 1) / 2
        return along(np.maximum(rows, 0) * spacing_mm[self.axis], self.axis)


@dataclass(frozen=True)
class Projection(Plane):
    """The projection along `axis`, the mean of every line of voxels, of a contrast that is constant along it: what it shows of a
    voxel is the voxel's value, in that contrast. Make it with `of`: a box about the middle row that covers all."""

    @classmethod
    def of(cls, axis: int, length: int) -> Projection:
        return cls(axis, length // 2, length + 1 - length % 2)

    @property
    def exact(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return f"projection:{AXIS_NAMES[self.axis]}/{self.index}x{self.thickness:g}"

    def distance_mm(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
        """Half the box everywhere: as far as what it shows of another contrast can be from where it belongs."""
        return along(np.full(shape[self.axis], self.thickness / 2 * spacing_mm[self.axis]), self.axis)


@dataclass(frozen=True)
class ObliquePlane:
    """A section at any pose: pixel (i, j) lies at voxel `centre + (i - (h-1)/2) u + (j - (w-1)/2) v`, trilinear.

    centre, u, v are in voxel coordinates of the grid; pixels outside the volume read 0.
    """

    centre: tuple[float, float, float]
    u: tuple[float, float, float]
    v: tuple[float, float, float]
    size: tuple[int, int]

    thin = exact = False

    @property
    def name(self) -> str:
        """Every digit of the pose, and the size: `parse_plane` gives an equal plane back."""
        pose = "/".join(repr(float(x)) for x in (*self.centre, *self.u, *self.v))
        return f"oblique:{pose}/{self.size[0]}x{self.size[1]}"

    @property
    def nearest_axis(self) -> int:
        """The array axis that the normal is nearest to."""
        return int(np.abs(np.cross(self.u, self.v)).argmax())

    @property
    def place(self) -> str:
        """Where its centre lies along the nearest axis, in sections, for tables."""
        return f"{self.centre[self.nearest_axis]:.1f}"

    def points(self) -> np.ndarray:
        """Voxel coordinates (h * w, 3) of the pixels."""
        i, j = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in self.size), indexing="ij")
        offsets = np.multiply.outer(i.ravel(), self.u) + np.multiply.outer(j.ravel(), self.v)
        return np.asarray(self.centre) + offsets

    def matrix(self, shape: Sequence[int]) -> sparse.csr_array:
        """Trilinear interpolation as a sparse matrix (h * w, X * Y * Z), so that the adjoint is its exact transpose."""
        return _trilinear(self, tuple(shape))

    def cut(self, volume: np.ndarray) -> np.ndarray:
        matrix = self.matrix(volume.shape[1:])
        flat = volume.reshape(len(volume), -1)
        return (matrix @ flat.T).T.reshape(len(volume), *self.size).astype(volume.dtype)

    def spread(self, section: np.ndarray, volume: np.ndarray) -> None:
        matrix = self.matrix(volume.shape[1:])
        volume += (matrix.T @ section.reshape(len(section), -1).T).T.reshape(volume.shape).astype(volume.dtype)

    def distance_mm(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
        """Distance (X, Y, Z) to the infinite plane through the section."""
        spacing = np.asarray(spacing_mm, dtype=float)
        normal = np.cross(np.asarray(self.u) * spacing, np.asarray(self.v) * spacing)
        normal /= np.linalg.norm(normal)
        grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
        return np.abs(((grid - self.centre) * spacing) @ normal)


@functools.lru_cache(maxsize=64)  # an iterative projection cuts the same planes a hundred times
def _trilinear(plane: ObliquePlane, shape: tuple[int, int, int]) -> sparse.csr_array:
    points = plane.points()
    base = np.floor(points).astype(int)
    fraction = points - base
    rows, columns, values = [], [], []
    for corner in itertools.product((0, 1), repeat=3):
        voxel = base + corner
        weight = np.prod(np.where(corner, fraction, 1 - fraction), axis=1)
        inside = ((voxel >= 0) & (voxel < shape)).all(axis=1) & (weight > 0)
        rows.append(np.flatnonzero(inside))
        columns.append(np.ravel_multi_index(voxel[inside].T, shape))
        values.append(weight[inside])
    size = (len(points), int(np.prod(shape)))
    from scipy import sparse

    return sparse.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=size)


AnyPlane = Plane | ObliquePlane


def parse_plane(name: str) -> AnyPlane:
    """The plane of that `name`, such as `axial:12`, `axial:24x2.5` or `oblique:11.5/.../0.26/24x25`. Raises InputError."""
    kind, _, rest = name.partition(":")
    try:
        if kind == "oblique":
            *pose, size = rest.split("/")
            (a, b, c, *u), (h, w) = map(float, pose), map(int, size.split("x"))
            return ObliquePlane((a, b, c), _triple(u[:3]), _triple(u[3:]), (h, w))
        if kind == "projection":
            axis, _, box = rest.partition("/")
            index, thickness = map(int, box.split("x"))
            return Projection(AXES[axis], index, thickness)
        index, _, thickness = rest.partition("x")
        return Plane(AXES[kind], int(index), float(thickness or 1))
    except (KeyError, ValueError) as error:
        expected = "AXIS:N, as axial:12, xT for a thickness, projection:AXIS/NxT, or oblique: centre, u, v joined by / and HxW"
        raise InputError("name of a given plane", repr(name), expected) from error


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z


def cut(volume: Array, planes: Sequence[AnyPlane]) -> list[Array]:
    """A: all given sections of `volume` (C, X, Y, Z)."""
    return [plane.cut(volume) for plane in planes]


def adjoint(sections: Sequence[Array], planes: Sequence[AnyPlane], like: Array) -> Array:
    """A^T: a volume like `like` (C, X, Y, Z) in which every section has been added where it was cut."""
    volume = like * 0
    for section, plane in zip(sections, planes, strict=True):
        plane.spread(section, volume)
    return volume


def coverage(planes: Sequence[AnyPlane], shape: Sequence[int]) -> np.ndarray:
    """W = A^T 1, (X, Y, Z) float64: how often a voxel was seen, weighted by the slice profile."""
    like = np.zeros((1, *shape))
    ones = [np.ones_like(plane.cut(like)) for plane in planes]
    return adjoint(ones, planes, like)[0]


def evidence(sections: Sequence[np.ndarray], planes: Sequence[AnyPlane], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """E = W+ A^T y (C, X, Y, Z) float32 and the mask M = [W > 0] (X, Y, Z) bool; where given planes cross, their mean."""
    n_contrasts = sections[0].shape[0]
    back = adjoint([np.asarray(s, dtype=np.float64) for s in sections], planes, np.zeros((n_contrasts, *shape)))
    seen = coverage(planes, shape)
    mask = seen > 1e-9
    return (back * np.where(mask, 1 / np.where(mask, seen, 1), 0)).astype(np.float32), mask


def distance_mm(planes: Sequence[AnyPlane], shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Delta, (X, Y, Z) float32: distance in mm to the nearest given plane."""
    result = np.full(tuple(shape), np.inf)
    for plane in planes:
        result = np.minimum(result, plane.distance_mm(shape, spacing_mm))
    return result.astype(np.float32)


def common_axis(planes: Sequence[AnyPlane]) -> int | None:
    """The axis that all planes are sections of, None where there is no such axis."""
    axes = {p.axis if isinstance(p, Plane) else None for p in planes}
    return axes.pop() if len(axes) == 1 else None


def profiles(planes: Sequence[Plane], length: int) -> np.ndarray:
    """P (K, length): the slice profiles of sections of one axis, a row each, so that A is P along that axis."""
    found = np.zeros((len(planes), length))
    for row, plane in zip(found, planes, strict=True):
        for r, w in plane.profile(length):
            row[r] = w
    return found


def linear_weights(indices: Sequence[int], length: int) -> np.ndarray:
    """Weights (length, K) of sections at sorted `indices` in linear interpolation; beyond the outermost, these alone."""
    rows = np.arange(length)
    return np.stack([np.interp(rows, indices, one) for one in np.eye(len(indices))], axis=1)


def project(volume: Array, sections: Sequence[Array], planes: Sequence[AnyPlane], given: Sequence[bool] | None = None) -> Array:
    """Nearest volume to `volume` (C, X, Y, Z) that agrees with the data, V + A^+ (y - A V).

    Thin axis-aligned planes, and projections: the given values themselves (bit-exact; where planes cross, their mean). Sections
    of one axis of which some are thick: A^+ is a matrix along that axis. Thick sections of several axes, oblique ones: least
    squares, step by step. In all cases also where sections contradict each other. Tensors where planes are axis-aligned and
    either all thin or of one axis; sections are then tensors on the same device.
    given: which contrasts the sections carry, all where None; the others stay as they are.
    """
    if given is not None and not all(given):
        chosen = [c for c, carried in enumerate(given) if carried]
        result = volume.copy() if isinstance(volume, np.ndarray) else volume.clone()
        result[chosen] = project(volume[chosen], [s[chosen] for s in sections], planes)
        return result
    axis = common_axis(planes)
    if all(plane.exact for plane in planes):
        return _paste(volume, sections, planes)
    if axis is not None:
        return _project_along(volume, sections, planes, axis)
    residual = [
        np.asarray(s, dtype=np.float64) - plane.cut(volume.astype(np.float64)) for s, plane in zip(sections, planes, strict=True)
    ]
    size = float(np.sqrt(sum(np.square(s, dtype=np.float64).sum() for s in sections)))
    return (volume + _least_squares(residual, planes, volume.shape, size)).astype(volume.dtype)


def _paste(volume: Array, sections: Sequence[Array], planes: Sequence[Plane]) -> Array:
    if isinstance(volume, np.ndarray):
        given, mask = evidence(sections, planes, volume.shape[1:])
        return np.where(mask, given.astype(volume.dtype), volume)
    seen = volume.new_tensor(coverage(planes, volume.shape[1:]))
    return (adjoint(sections, planes, volume) / seen.where(seen > 0, 1)).where(seen > 0, volume)


def _project_along(volume: Array, sections: Sequence[Array], planes: Sequence[Plane], axis: int) -> Array:
    """V + P^+ (y - P V) along `axis`, with the profile matrix P of the planes."""
    inverse = _inverse_profiles(tuple(planes), volume.shape[axis + 1])
    if isinstance(volume, np.ndarray):
        exact = volume.astype(np.float64)
        residual = [np.asarray(s, dtype=np.float64) - p.cut(exact) for s, p in zip(sections, planes, strict=True)]
        step = np.tensordot(inverse, np.stack(residual), axes=1)
        return (exact + unstack(step, axis)).astype(volume.dtype)
    matrix = volume.new_tensor(inverse)
    residual = [s - p.cut(volume) for s, p in zip(sections, planes, strict=True)]
    return volume + unstack(sum(matrix[:, k, None, None, None] * r for k, r in enumerate(residual)), axis)


@functools.lru_cache(maxsize=64)
def _inverse_profiles(planes: tuple[Plane, ...], length: int) -> np.ndarray:
    """P^+ = P^T (P P^T)^+, (length, K): a plane given twice counts once, with the mean of its sections."""
    return np.linalg.pinv(profiles(planes, length), rcond=1e-10)


def _least_squares(residual: list[np.ndarray], planes: Sequence[AnyPlane], shape: Sequence[int], size: float = 0.0) -> np.ndarray:
    """A^+ residual: the smallest volume (C, X, Y, Z) whose sections are nearest to `residual`, to 1e-6 of `size`, the norm of
    the data: a volume that meets them already leaves rounding errors, which no volume explains.

    By LSMR (Fong & Saunders 2011), which stays stable where planes cross and A A^T is singular; conjugate gradients on
    A A^T diverge there on data with rounding errors.
    """
    from scipy.sparse.linalg import LinearOperator, lsmr

    sizes = np.cumsum([r.size for r in residual])

    def forward(flat: np.ndarray) -> np.ndarray:
        return np.concatenate([s.ravel() for s in cut(flat.reshape(shape), planes)])

    def backward(flat: np.ndarray) -> np.ndarray:
        parts = zip(np.split(flat, sizes[:-1]), residual, strict=True)
        return adjoint([part.reshape(r.shape) for part, r in parts], planes, np.zeros(shape)).ravel()

    operator = LinearOperator((sizes[-1], int(np.prod(shape))), matvec=forward, rmatvec=backward, dtype=np.float64)
    flat = np.concatenate([r.ravel() for r in residual])
    # of the residual: where it is as large as the data or larger, 1e-7
    relative = 1e-6 * max(0.1, size / max(float(np.linalg.norm(flat)), 1e-30))
    solution, stop, *_ = lsmr(operator, flat, atol=1e-7, btol=relative, conlim=0, maxiter=1000)
    if stop == 7:
        raise RuntimeError(f"projection on {len(planes)} planes did not converge in 1000 steps")
    return solution.reshape(shape)


def stack(volume: Array, axis: int) -> Array:
    """All sections of a volume (C, X, Y, Z) along `axis`: (n, C, h, w), a view."""
    if isinstance(volume, np.ndarray):
        return np.moveaxis(volume, axis + 1, 0)
    return volume.movedim(axis + 1, 0)


def unstack(sections: Array, axis: int) -> Array:
    """Inverse of `stack`: (n, C, h, w) to (C, X, Y, Z), a view."""
    if isinstance(sections, np.ndarray):
        return np.moveaxis(sections, 0, axis + 1)
    return sections.movedim(0, axis + 1)


def upright(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A section of (X, Y, Z) as a picture (row 0 on top): anterior or superior on top, the subject's left or back on the left."""
    return volume.take(index, axis).T[::-1]


def along(values: np.ndarray, axis: int) -> np.ndarray:
    """One value per section (n,), shaped to broadcast along `axis` of an (X, Y, Z) array."""
    view = [1, 1, 1]
    view[axis] = -1
    return np.asarray(values).reshape(view)


def shifted(array: np.ndarray, shift: Sequence[int], edge: bool = False) -> np.ndarray:
    """The last len(shift) axes moved by whole voxels; what comes from outside is 0, or repeats the outermost where `edge`."""
    result = array
    for axis, by in enumerate(shift, start=array.ndim - len(shift)):
        source = np.arange(array.shape[axis]) - by
        result = np.take(result, np.clip(source, 0, len(source) - 1), axis=axis)
        if not edge:
            np.moveaxis(result, axis, 0)[(source < 0) | (source >= len(source))] = 0
    return result


def per_section(mask: np.ndarray, axis: int) -> np.ndarray:
    """How many voxels of a mask (X, Y, Z) lie in each section along `axis`, (n,)."""
    return mask.sum(axis=tuple(a for a in range(3) if a != axis))


def _at(axis: int, row: int) -> tuple:
    """Index of one section in a (C, X, Y, Z) array."""
    where: list = [slice(None)] * 4
    where[axis + 1] = row
    return tuple(where)
