"""Six stations out of the series of an archive, by where they lie; and one clear message for what is no neck-to-knee scan."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from body_stations import EID, small, without, write_station

from xdiff.data.stations import Station, check_coverage, read_stations
from xdiff.errors import InputError

FOUND = small()
ALL = ("water", "fat", "in", "opp")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 series of 4 sections each, 96 files."""
    folder = tmp_path_factory.mktemp("stations")
    for station in FOUND:
        write_station(folder, station)
    (folder / "manifest.cvs").write_text("filename\n")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "mri"))


def remove(folder: Path, series: str) -> None:
    for path in list(folder.glob(f"{series}.*.dcm")):
        path.unlink()


def remove_stations(folder: Path, *indices: int) -> None:
    for i in indices:
        for uid in FOUND[i].series.values():
            remove(folder, uid)


def refused(folder: Path, message: str, contrasts: tuple[str, ...] = ALL) -> InputError:
    with pytest.raises(InputError, match=message) as caught:
        read_stations(folder, EID, contrasts)
    assert "\n" not in str(caught.value)
    return caught.value


def rewrite(folder: Path, i: int, station: Station | None = None, **more: object) -> None:
    remove_stations(folder, i)
    write_station(folder, station or FOUND[i], **more)


def test_stations_come_from_the_lowest_to_the_highest_with_all_contrasts(written: Path) -> None:
    found, unused = read_stations(written, EID, ALL)
    assert len(found) == 6 and unused == []
    for one, expected in zip(found, FOUND, strict=True):
        np.testing.assert_allclose(one.affine, expected.affine, atol=1e-6)
        assert one.series == expected.series and one.description == f"{expected.description}_W"
        for contrast in ALL:
            np.testing.assert_array_equal(one.images[contrast], expected.images[contrast])


def test_an_extent_reaches_from_face_to_face() -> None:
    low, high = FOUND[1].extent_mm[2]
    assert (low, high) == (50.0, 130.0)  # four sections of 20 mm, the first at 60
    assert FOUND[0].extent_mm[0].tolist() == [-168.0, 168.0]


def test_other_series_are_told_and_left(folder: Path) -> None:
    scout = replace(FOUND[0], images={"in": FOUND[0].images["in"]}, series={"in": "1.2.3"})
    write_station(folder, scout, description="localizer")
    assert read_stations(folder, EID, ALL)[1] == ["localizer"]


def test_series_of_contrasts_that_are_not_asked_for_may_be_missing(folder: Path) -> None:
    remove(folder, FOUND[2].series["opp"])
    assert set(read_stations(folder, EID, ("water", "fat"))[0][2].images) == {"water", "fat"}
    refused(folder, r"no opp at height 150 mm, expected series of \['water', 'fat', 'in', 'opp'\]")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ((2,), r"5 stations with a gap of 40 mm, from 130 to 170 mm, expected 6 stations, each overlapping"),
        ((2, 3), r"4 stations with a gap of 100 mm, from 130 to 230 mm"),
        ((0,), r"5 stations from 50 to 370 mm, expected 6, from neck to knee"),
        ((5,), r"5 stations from -10 to 310 mm"),
    ],
)
def test_a_missing_station_is_named_by_its_gap(folder: Path, gone: tuple[int, ...], message: str) -> None:
    remove_stations(folder, *gone)
    assert refused(folder, message).where == str(folder)


def test_a_series_twice(folder: Path) -> None:
    copy = replace(FOUND[3], images={"fat": FOUND[3].images["fat"]}, series={"fat": "1.2.3"})
    write_station(folder, copy)
    refused(folder, r"Dixon_BH_17s_F twice at height 210 mm \(.+\.dcm and .+\.dcm\), expected each series once")


def test_the_sections_of_two_patients(folder: Path) -> None:
    rewrite(folder, 5, patient="7654321")
    refused(folder, r"1125\.7\.5\..*PatientID '7654321', expected '1234567'")


def test_the_patient_is_not_the_one_of_the_archives_name(folder: Path) -> None:
    with pytest.raises(InputError, match="PatientID 1234567, expected 7654321, after whom the archive is named"):
        read_stations(folder, "7654321", ALL)


def test_a_pseudonym_in_place_of_an_eid_says_nothing(tmp_path: Path) -> None:
    for station in FOUND:
        write_station(tmp_path, station, patient="2UKBIOBANK")
    assert len(read_stations(tmp_path, EID, ALL)[0]) == 6


def test_stations_in_two_frames_of_reference(folder: Path) -> None:
    rewrite(folder, 4, frame="1.2.3.4")
    refused(folder, r"FrameOfReferenceUID '(1\.2\.3\.4|1\.2\.826.+)', expected .+: positions in one frame")


def test_stations_of_two_orientations(folder: Path) -> None:
    rewrite(folder, 4, orientation=(np.cos(0.05), np.sin(0.05), 0, -np.sin(0.05), np.cos(0.05), 0))
    refused(folder, r"a station with axes .+, expected .+ as the lowest one")


def test_contrasts_of_one_station_on_other_voxels(folder: Path) -> None:
    moved = FOUND[1].affine.copy()
    moved[0, 3] += 4.5
    remove(folder, FOUND[1].series["fat"])
    write_station(folder, replace(FOUND[1], images={"fat": FOUND[1].images["fat"]}, affine=moved))
    refused(folder, r"1125\.7\.1\.1\.1\.dcm: found affine")


def test_no_dixon_series(tmp_path: Path) -> None:
    write_station(tmp_path, FOUND[0], description="localizer")
    refused(tmp_path, r"series \['localizer', 'localizer', 'localizer', 'localizer'\], expected Dixon_noBH_F, Dixon_BH_17s_W")


def test_a_missing_section_and_a_damaged_file_are_named(folder: Path) -> None:
    section = folder / f"{FOUND[2].series['water']}.2.dcm"
    whole = section.read_bytes()
    section.unlink()
    refused(folder, "40 mm from .+ to this slice|20 mm as between the others")
    section.write_bytes(whole[:-40])
    assert refused(folder, "beyond the end").where == str(section)


def test_stations_that_only_touch_are_no_overlap() -> None:
    lifted = FOUND[3].affine.copy()
    lifted[2, 3] = FOUND[2].affine[2, 3] + 80
    with pytest.raises(InputError, match="a gap of 0 mm"):
        check_coverage([*without(FOUND, 3, 4, 5), replace(FOUND[3], affine=lifted)], Path("x"))
