"""A DXA is laid on the MRI of the person that it is of, within a pixel and half a degree, and on nobody else's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from xdiff.data.body_dxa import scan_dxa
from xdiff.data.dxa import projections, register_dxa
from xdiff.data.phantom_body import body_subject
from xdiff.errors import InputError

SEED, SPACING_MM, PEOPLE = 5, 8.0, 3


@dataclass
class Scans:
    """Fat and water of one person with their affine, the DXA with its own, and how it was placed."""

    fat: np.ndarray
    water: np.ndarray
    affine: np.ndarray
    dxa: np.ndarray
    dxa_affine: np.ndarray
    placed: dict[str, float]

    def register(self, dxa: np.ndarray | None = None, **other: np.ndarray):
        given = {"dxa_affine": self.dxa_affine, "fat": self.fat, "water": self.water, "affine": self.affine, **other}
        return register_dxa(self.dxa if dxa is None else dxa, **given, where="x_dxa.nii.gz")


@pytest.fixture(scope="module")
def people() -> list[Scans]:
    scans = []
    for patient in range(PEOPLE):
        images, _, affine, _ = body_subject(SEED, patient, SPACING_MM)
        scans.append(Scans(images["fat"], images["water"], affine, *scan_dxa(SEED, patient)))
    return scans


def _nearest(scans: Scans, axis: int) -> np.ndarray:
    """Indices of the DXA's pixels that would lie on the MRI's if the person had not moved."""
    mri = scans.affine[axis, 3] + SPACING_MM * np.arange(scans.fat.shape[axis])
    return np.rint((mri - scans.dxa_affine[axis, 3]) / 4.0).astype(int)


def refused(message: str, scans: Scans, *args: np.ndarray, **other: np.ndarray) -> None:
    with pytest.raises(InputError, match=message) as caught:
        scans.register(*args, **other)
    assert caught.value.where == "x_dxa.nii.gz"


def test_shift_turn_and_scale_are_recovered(people: list[Scans]) -> None:
    for scans in people:
        found = scans.register()
        placed = scans.placed
        # where the middle of the MRI is seen; a pixel has 4 mm
        assert found.transform[:2, 2] == pytest.approx([placed["shift_x_mm"], placed["shift_z_mm"]], abs=4.0)
        assert found.turn_deg == pytest.approx(placed["turn_deg"], abs=0.5)
        assert found.scale == pytest.approx(1 + placed["magnification"], abs=0.01)
        assert found.correlation > 0.95


def test_the_image_lies_on_the_coronal_grid_of_the_mri(people: list[Scans]) -> None:
    scans = people[0]
    image, correlation, transform = scans.register()
    assert image.shape == (scans.fat.shape[0], 1, scans.fat.shape[2]) and image.dtype == np.float32
    thickness = projections(scans.fat, scans.water, scans.affine)[0][0]
    columns, rows = (_nearest(scans, axis) for axis in (0, 2))
    unmoved = scans.dxa[:, 0][columns][:, rows]
    before, after = (np.corrcoef(thickness.ravel(), seen.ravel())[0, 1] for seen in (unmoved, image[:, 0]))
    assert after > before + 0.005 and correlation > after
    assert transform.shape == (3, 3) and (transform[2] == [0, 0, 1]).all()


def test_the_origin_of_the_dxa_does_not_matter(people: list[Scans]) -> None:
    scans = people[1]
    far = scans.dxa_affine.copy()
    far[:3, 3] += [700, 0, -900]
    near, moved = scans.register(), scans.register(dxa_affine=far)
    np.testing.assert_allclose(moved.transform[:2, 2] - near.transform[:2, 2], [700, -900], atol=0.5)


@pytest.mark.parametrize("other", [1, 2])
def test_the_dxa_of_another_person_is_refused(people: list[Scans], other: int) -> None:
    refused("correlation of .* as of the same person", people[0], people[other].dxa)


def test_a_dxa_upside_down_is_refused(people: list[Scans]) -> None:
    refused("of the MRI's silhouette|correlation of 0.[67]", people[0], people[0].dxa[:, :, ::-1])


def test_a_mirrored_dxa_is_refused(people: list[Scans]) -> None:
    for scans in people:
        refused("mirrored", scans, scans.dxa[::-1])


def test_a_dxa_of_a_part_of_the_body_is_refused(people: list[Scans]) -> None:
    scans = people[0]
    refused("of the MRI's silhouette, expected a DXA that shows at least 80%", scans, scans.dxa[:, :, :150])


@pytest.mark.parametrize("shape", [(140, 296), (140, 2, 296), (4, 1, 296)])
def test_what_is_no_coronal_image_is_refused(people: list[Scans], shape: tuple[int, ...]) -> None:
    refused(r"one coronal image, \(X, 1, Z\)", people[0], np.ones(shape, np.float32))


def test_volumes_that_do_not_belong_together_are_refused(people: list[Scans]) -> None:
    refused("two volumes .* of one shape", people[0], water=people[0].water[:-1])


def test_a_constant_or_broken_image_is_refused(people: list[Scans]) -> None:
    broken = people[0].dxa.copy()
    broken[3, 0, 3] = np.nan
    for image in (np.full_like(broken, 7), broken):
        refused("no image", people[0], image)


def test_axes_that_are_not_ras_are_refused(people: list[Scans]) -> None:
    turned = people[0].dxa_affine.copy()
    turned[0, 0] *= -1
    refused("axes .* of the DXA, expected RAS", people[0], dxa_affine=turned)


@pytest.mark.parametrize("level", [0.0, 100.0])
def test_volumes_without_a_body_are_refused(level: float) -> None:
    empty = np.full((20, 12, 30), level, np.float32)
    with pytest.raises(InputError, match="no body against a background"):
        projections(empty, empty, np.diag([8.0, 8, 8, 1]))
