"""Training volumes in a weights folder that is small enough to ship: a truncated basis of their second moment, in 8 bits.

Training volumes X_i and their mirror images M X_i enter a linear-Gaussian core (gaussian.py) and a pose model (pose.py) through
their mean m and their scatter alone, as long as none of them is left out. With the even and odd parts
E_i, O_i = (X_i +- M X_i) / 2,

    mean = mean of E,   scatter = 2 (E - m)^T (E - m) + 2 O^T O   (m even: half an array holds either part),

so that any volumes m + A Z + B W with A^T 1 = 0, A^T A = U^T U and B^T B = V^T V serve as well, where E - m = U Z and O = V W.
Z and W are principal components, by the Gram matrices of E - m and O; the `components` strongest of both are kept. A = Q U and
B = Q' V with Q, Q' random and orthogonal: which mixture a subject was is not kept, and no row that is made again is a subject's.

Components are rounded to one step for all, so that weak ones take few values and pack well (zlib); one that 127 steps do not
hold has a step of its own.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from xdiff.checkpoint import Tensors

PREFIX, EVEN, ODD = "basis.", ".even", ".odd"
MOST, KIND = 127, np.int8  # steps that a component may take
BLOCK = 16  # volumes at a time
LEAST = 1e-6  # of the strongest component's power: below it there is rounding only


@dataclass(frozen=True)
class Half:
    """Components of one parity, (R, n) float32, in order of strength, and `powers` (R,), their squared norms."""

    components: np.ndarray
    powers: np.ndarray

    @staticmethod
    def of(parts: np.ndarray) -> Half:
        """Of parts (N, n): U^T parts with U the eigenvectors of their Gram matrix."""
        powers, vectors = np.linalg.eigh((parts @ parts.T).astype(np.float64))
        kept = np.flatnonzero(powers > LEAST * max(powers[-1], 1e-30))[::-1]
        return Half(vectors[:, kept].T.astype(np.float32) @ parts, powers[kept])

    def strongest(self, least: float) -> Half:
        kept = self.powers >= least
        return Half(self.components[kept], self.powers[kept])

    def mixtures(self, parts: np.ndarray) -> np.ndarray:
        """Coefficients (N, R) of parts (N, n), by projection."""
        return (parts @ self.components.T).astype(np.float64) / np.maximum(self.powers, 1e-30)


def compress(tensors: Tensors, names: list[str], components: int, step: float, seed: int = 0) -> Tensors:
    """The tensors with the training volumes `names`, each (N, C, X, Y, Z), the first the most, packed as above.

    components: kept of the first one's even and odd parts together; step: of the rounding of components, each as strong as its
    standard deviation over the volumes (0.005 is 0.5 % of the intensity scale). What the first ones' components do not make up
    is lost.
    """
    rng = np.random.default_rng([seed, components])
    shape = tensors[names[0]].shape[1:]
    mask = _inside(tensors[names[0]])
    even, odd = _parts(tensors[names[0]], mask)
    mean = even.mean(axis=0)
    halves = (Half.of(even - mean), Half.of(odd))
    powers = np.sort(np.concatenate([half.powers for half in halves]))[::-1]
    halves = tuple(half.strongest(powers[min(components, len(powers)) - 1]) for half in halves)
    packed = {name: array for name, array in tensors.items() if name not in names}
    packed |= {"basis.shape": np.array(shape), "basis.mask": np.packbits(mask), "basis.mean": mean.astype(np.float16)}
    for parity, half in zip((EVEN, ODD), halves, strict=True):
        packed |= {f"basis{parity}.{key}": array for key, array in _packed(half.components, step, len(even)).items()}
    for name in names:
        even, odd = _parts(tensors[name], mask)
        packed[name + EVEN] = _mixed(halves[0].mixtures(even - mean), rng, centred=True)
        packed[name + ODD] = _mixed(halves[1].mixtures(odd), rng, centred=False)
    return packed


def is_compressed(tensors: Tensors) -> bool:
    return f"{PREFIX}shape" in tensors


def expand(tensors: Tensors) -> Tensors:
    """Tensors of `compress` with training volumes (N, C, X, Y, Z) float16 again; any others as they are."""
    if not is_compressed(tensors):
        return tensors
    shape = tuple(int(n) for n in tensors["basis.shape"])
    mask = _mask_of(tensors["basis.mask"], shape)
    mean = tensors["basis.mean"].astype(np.float32)
    halves = [_unpacked(tensors, parity, mean.size) for parity in (EVEN, ODD)]
    names = [name.removesuffix(EVEN) for name in tensors if name.endswith(EVEN)]
    found = {n: a for n, a in tensors.items() if not n.startswith("basis") and not n.endswith((EVEN, ODD))}
    for name in names:
        found[name] = _volumes(tensors[name + EVEN], tensors[name + ODD], mean, halves, mask, shape)
    return found


def projected(volume: np.ndarray, tensors: Tensors) -> np.ndarray:
    """What the shipped components can say of a volume (C, X, Y, Z): the nearest that mean and components make."""
    shape = tuple(int(n) for n in tensors["basis.shape"])
    mask, mean = _mask_of(tensors["basis.mask"], shape), tensors["basis.mean"].astype(np.float32)
    halves = [_unpacked(tensors, parity, mean.size) for parity in (EVEN, ODD)]
    even, odd = _parts(volume[None], mask)
    weights = [np.linalg.pinv(h @ h.T, hermitian=True) @ (h @ p[0]) for h, p in zip(halves, (even - mean, odd), strict=True)]
    return _volumes(weights[0][None], weights[1][None], mean, halves, mask, shape)[0].astype(np.float32)


def _inside(rows: np.ndarray) -> np.ndarray:
    """Voxels (H, Y, Z) bool of half an array in which, or in whose mirror image, any volume is not 0; H is X / 2 rounded up."""
    seen = (rows != 0).any(axis=(0, 1))
    return _half(seen | seen[::-1], 0)


def _mask_of(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    half = ((shape[1] + 1) // 2, *shape[2:])
    return np.unpackbits(bits, count=int(np.prod(half))).astype(bool).reshape(half)


def _half(array: np.ndarray, axis: int) -> np.ndarray:
    return array.take(range((array.shape[axis] + 1) // 2), axis)


def _parts(rows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Even and odd parts (N, n) float32 inside the mask, n over contrasts and voxels."""
    even, odd = np.empty((2, len(rows), rows.shape[1] * int(mask.sum())), np.float32)
    for i, row in enumerate(rows):
        here, there = _half(row, 1)[:, mask].astype(np.float32), _half(row[:, ::-1], 1)[:, mask].astype(np.float32)
        even[i], odd[i] = ((here + there) / 2).ravel(), ((here - there) / 2).ravel()
    return even, odd


def _mixed(mixtures: np.ndarray, rng: np.random.Generator, centred: bool) -> np.ndarray:
    """Other mixtures (N, R) float32 with the same mean and scatter or, where not centred, with the same second moment."""
    count = len(mixtures)
    middle = mixtures.mean(axis=0) if centred else 0.0
    values, vectors = np.linalg.eigh((mixtures - middle).T @ (mixtures - middle))
    kept = np.argsort(-values)[: count - centred]
    root = np.sqrt(np.maximum(values[kept], 0))[:, None] * vectors[:, kept].T
    random = rng.standard_normal((count, len(kept)))
    rotation = np.linalg.qr(random - random.mean(axis=0) if centred else random)[0]
    return (rotation @ root + middle).astype(np.float32)


def _packed(components: np.ndarray, step: float, count: int) -> Tensors:
    largest = np.abs(components).max(axis=1, initial=0.0)
    steps = np.maximum(step * np.sqrt(count), largest / MOST).astype(np.float32)
    rounded = np.round(components / steps[:, None]).astype(KIND)
    return {"steps": steps, "zlib": np.frombuffer(zlib.compress(rounded.tobytes(), 9), np.uint8)}


def _unpacked(tensors: Tensors, parity: str, length: int) -> np.ndarray:
    """Components (R, n) float32 of one parity."""
    rounded = np.frombuffer(zlib.decompress(tensors[f"basis{parity}.zlib"].tobytes()), KIND).reshape(-1, length)
    return rounded * tensors[f"basis{parity}.steps"][:, None]


def _volumes(
    even: np.ndarray, odd: np.ndarray, mean: np.ndarray, halves: list[np.ndarray], mask: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Volumes (N, C, X, Y, Z) float16 of mixtures (N, R) of either parity."""
    found = np.zeros((len(even), *shape), np.float16)
    near = mask.shape[0]
    for start in range(0, len(even), BLOCK):
        part = slice(start, start + BLOCK)
        same = mean + even[part].astype(np.float32) @ halves[0]
        other = odd[part].astype(np.float32) @ halves[1]
        here, there = np.zeros((2, len(same), shape[0], *mask.shape), np.float16)
        here[..., mask] = (same + other).reshape(len(same), shape[0], -1)
        there[..., mask] = (same - other).reshape(len(same), shape[0], -1)
        found[part, :, shape[1] - near :] = there[:, :, ::-1]
        found[part, :, :near] = here
    return found
