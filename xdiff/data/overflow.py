"""Intensities that did not fit into 16 bits when a file was written: seen in what they left behind, never mended."""

from __future__ import annotations

import numpy as np

from xdiff.errors import InputError
from xdiff.volumes import Volume

HALF = 2**14  # half of the range on either side of zero
LIMITS = {2**15 - 1: "int16", 2**16 - 1: "uint16"}
LARGEST_PLATEAU = 1e-4  # of the non-zero voxels
FEW = 10  # voxels, as many as may be brightest by chance where an image was scaled to its maximum


def check_overflow(volume: Volume) -> None:
    """Raise InputError for a whole-numbered volume (X, Y, Z) that bears the mark of an overflow.

    Wrapped round: a voxel below -16384 beside one above 16384, as tissue brighter than 32767 becomes when int16 wraps. Clipped:
    more than ten voxels, and than 1 in 10,000 of the non-zero ones, exactly at 32767 or 65535, and none above. A type that wraps
    from 65535 to 0 leaves holes like those of anatomy, and is not seen.
    """
    array = volume.array
    top = float(array.max())
    if top <= HALF or (array != np.round(array)).any():
        return
    wrapped = _wrapped(array) if array.min() < -HALF else 0
    if wrapped:
        found = f"{wrapped} neighbours that jump from above {HALF} to below -{HALF}: int16 that wrapped round"
        raise InputError(volume.path, found, "intensities within their type (write float32, or int16 with a scale)")
    clipped = int((array == top).sum())
    if top in LIMITS and clipped > max(FEW, LARGEST_PLATEAU * np.count_nonzero(array)):
        found = f"{clipped} voxels at {top:.0f}, the limit of {LIMITS[int(top)]}"
        raise InputError(volume.path, found, "intensities that were not clipped (write float32, or int16 with a scale)")


def _wrapped(array: np.ndarray) -> int:
    """Pairs of neighbours along the three axes, one above HALF and the other below -HALF."""
    high, low = array > HALF, array < -HALF
    pairs = 0
    for axis in range(3):
        before = [slice(None)] * 3
        after = [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(before), tuple(after)
        pairs += int((high[a] & low[b]).sum() + (low[a] & high[b]).sum())
    return pairs
