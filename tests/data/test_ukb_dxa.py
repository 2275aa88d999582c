"""The whole-body image of a DXA archive, upright, with its pixels' size; and what is none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from body_stations import EID, write_dxa

from xdiff.data.ukb_dxa import Dxa, read_dxa
from xdiff.errors import InputError

ROWS = np.linspace(0, 1000, 90)[:, None] + np.arange(36)
DIRECTIONS, AREA = (0x0020, 0x0020), (0x0040, 0x0303)


def read(folder: Path, **more: object) -> Dxa:
    archive = write_dxa(folder, folder / "work", **more)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / "unpacked")
    return read_dxa(folder / "unpacked", EID)


def refused(folder: Path, message: str, **more: object) -> None:
    with pytest.raises(InputError, match=message):
        read(folder, **more)


def test_soft_tissue_and_bone_of_the_whole_body_stand_upright(tmp_path: Path) -> None:
    """660 x 1980 mm in 36 x 90 pixels; the head's row is the highest, the image's left the patient's right."""
    found = read(tmp_path)
    assert list(found.images) == ["dxa", "dxa_bone"] and found.images["dxa"].shape == (36, 1, 90)
    np.testing.assert_allclose(found.images["dxa"][:, 0, :], np.trunc(ROWS).T[::-1, ::-1])
    np.testing.assert_allclose(found.images["dxa_bone"], np.trunc(2 * ROWS).T[::-1, None, ::-1])
    np.testing.assert_allclose(np.diag(found.affine), [660 / 36, 1, 1980 / 90, 1])
    np.testing.assert_allclose(found.affine[:3, 3], [-660 / 36 * 35 / 2, 0, 0], atol=1e-9)
    assert found.record["left_assumed"] and found.record["spacing_from"] == "ExposedArea"


def test_an_image_that_says_where_left_is_turns(tmp_path: Path) -> None:
    found = read(tmp_path, extra={DIRECTIONS: ("CS", "R\\F")})
    np.testing.assert_allclose(found.images["dxa"][:, 0, :], np.trunc(ROWS).T[:, ::-1])
    assert not found.record["left_assumed"] and found.affine[0, 0] > 0


def test_the_size_of_pixels_in_the_header_comes_first(tmp_path: Path) -> None:
    found = read(tmp_path, spacing=(20.0, 15.0), drop=[])
    np.testing.assert_allclose(np.diag(found.affine)[:3], [15, 1, 20])
    assert found.record["spacing_from"] == "PixelSpacing"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"protocols": ("Left Femur", "AP Spine")},
            r"0 grey whole-body images of sizes \[\], among \['AP Spine', 'Left Femur'\]",
        ),
        ({"protocols": ("Total Body",) * 3}, "3 grey whole-body images .+ expected 1 or 2 of protocol `Total Body`"),
        ({"patient": "7654321"}, f"PatientID 7654321, expected {EID}"),
        ({"extra": {AREA: ("US", b"\x42\x00\xc6\x00")}}, r"ExposedArea 66\\198: a scan of 198 mm, expected 1000 to 2500 mm"),
        ({"extra": {AREA: ("US", b"\x42\x00")}}, "no PixelSpacing, ImagerPixelSpacing or ExposedArea of two numbers"),
        ({"extra": {DIRECTIONS: ("CS", "A\\F")}}, r"PatientOrientation A\\F, expected one of"),
    ],
)
def test_what_is_no_whole_body_scan(tmp_path: Path, more: dict, message: str) -> None:
    refused(tmp_path, message, **more)


def test_one_whole_body_image_is_enough(tmp_path: Path) -> None:
    assert list(read(tmp_path, protocols=("Left Femur", "Total Body")).images) == ["dxa"]
