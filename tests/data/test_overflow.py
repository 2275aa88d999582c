"""Overflow of 16 bits: seen where numpy itself overflows, and not seen in what is merely bright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from xdiff.data.overflow import check_overflow
from xdiff.errors import InputError
from xdiff.volumes import Volume, read_volume, write_volume

RNG = np.random.default_rng(2)


def bright(top: float) -> np.ndarray:
    """A smooth head (X, Y, Z) with noise, as bright as `top`, background zero."""
    x, y, z = np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in (30, 34, 28)), indexing="ij")
    radius = x**2 + y**2 + z**2
    texture = ndimage.gaussian_filter(RNG.standard_normal(radius.shape), 2)
    image = np.where(radius < 1, 1 - 0.5 * radius + 0.5 * texture + 0.02 * RNG.standard_normal(radius.shape), 0)
    return np.clip(image, 0, None) * top / image.max()


def check(array: np.ndarray) -> None:
    check_overflow(Volume(array.astype(np.float32), np.eye(4), Path("head.nii")))


@pytest.mark.parametrize("top", [34_000, 40_000, 60_000])
def test_int16_that_wrapped_round_is_refused(top: float) -> None:
    wrapped = bright(top).astype(np.int64).astype(np.int16)
    assert wrapped.min() < 0
    with pytest.raises(
        InputError, match=r"head\.nii: found \d+ neighbours that jump .* int16 that wrapped round, expected .*float32"
    ):
        check(wrapped)


@pytest.mark.parametrize(("top", "kind"), [(40_000, np.int16), (90_000, np.uint16)])
def test_intensities_clipped_at_the_limit_of_their_type_are_refused(top: float, kind: type) -> None:
    limit = np.iinfo(kind).max
    with pytest.raises(InputError, match=rf"\d+ voxels at {limit}, the limit of {kind.__name__}"):
        check(np.minimum(bright(top), limit).astype(kind))


@pytest.mark.parametrize("top", [255, 4095, 32_767, 60_000, 65_535])
def test_what_fits_is_accepted(top: float) -> None:
    check(bright(top).round())
    check(np.minimum(bright(top) * 1.5, top) + 0.25)  # clipped, but by whoever scaled it: not whole numbers


def test_negative_values_are_no_overflow() -> None:
    check(bright(30_000).round() - 3000)
    smooth = ndimage.gaussian_filter(RNG.standard_normal((20, 20, 20)), 2)
    check((smooth / np.abs(smooth).max() * 32_000).round())
    check(np.full((4, 4, 4), -30_000.0))


def test_a_file_that_numpy_wrapped(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", bright(50_000).astype(np.int64).astype(np.int16), np.eye(4))
    with pytest.raises(InputError, match=r"a\.nii\.gz: found .*wrapped round"):
        check_overflow(read_volume(tmp_path / "a.nii.gz"))


def test_one_wrapped_voxel_is_enough_wherever_it_lies() -> None:
    image = np.full((5, 5, 5), 32_000.0)
    for at in ((0, 0, 0), (2, 2, 2), (4, 4, 4)):
        wrapped = image.copy()
        wrapped[at] = -32_000
        pairs = sum((i > 0) + (i < 4) for i in at)
        with pytest.raises(InputError, match=f"found {pairs} neighbours"):
            check(wrapped)
