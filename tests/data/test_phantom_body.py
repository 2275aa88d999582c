"""The embedded body cohort: reproducible, laid out as stitched volumes, with the anatomy and the truth that its files promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xdiff.config import Cohort, Labels
from xdiff.data import phantom_body as phantom
from xdiff.data.__main__ import generate
from xdiff.data.body_bones import disc_levels
from xdiff.data.body_drawing import BEND_MM, DRAWN, FIELD, PART, PARTS, Bend, Body, draw_body
from xdiff.data.body_person import draw_person
from xdiff.data.body_tissues import amounts
from xdiff.data.cohorts import find_subjects, foreground, read_subject
from xdiff.data.fields import grid_mm, sample
from xdiff.volumes import read_image, read_volume

SEED, SPACING_MM = 11, 12.0
SUBJECTS = ["1000000_2_0", "1000001_2_0"]
SUFFIXES = ("fat", "water", "parts", "dxa")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("body")
    assert phantom.write_phantom_body(out, 2, SEED, SPACING_MM) == SUBJECTS
    return out


@pytest.fixture(scope="module")
def body() -> Body:
    return draw_body(SEED, 1, 6.0)


def truth(cohort: Path, subject: str) -> dict:
    return json.loads((cohort / subject / "subject.json").read_text())


def centre_mm(body: Body, name: str) -> np.ndarray:
    """Centre of a part from the spine at L1: right, anterior, superior."""
    voxel = np.argwhere(body.parts == PART[name]).mean(axis=0)
    return body.affine[:3, :3] @ voxel + body.affine[:3, 3] - body.centre_line[len(body.centre_line) * 2 // 5]


# Files ------------------------------------------------------------------------------------------------------------


def test_files_lie_as_stitched_volumes_do(cohort: Path) -> None:
    found = sorted(str(path.relative_to(cohort)) for path in cohort.rglob("*") if path.is_file())
    wanted = [f"{s}/{s}_{name}.nii.gz" for s in SUBJECTS for name in SUFFIXES] + [f"{s}/subject.json" for s in SUBJECTS]
    assert found == sorted(wanted)


def test_a_subject_does_not_depend_on_the_cohort_it_is_in(cohort: Path) -> None:
    images, parts, affine, known = phantom.body_subject(SEED, 1, SPACING_MM)
    for name, array in {**images, "parts": parts}.items():
        stored = read_volume(cohort / SUBJECTS[1] / f"{SUBJECTS[1]}_{name}.nii.gz")
        assert stored.array.tobytes() == array.astype(np.float32).tobytes(), name
        np.testing.assert_allclose(stored.affine, affine)
        np.testing.assert_allclose(stored.affine, [[12, 0, 0, -240], [0, 12, 0, -168], [0, 0, 12, -552], [0, 0, 0, 1]])
    stored = truth(cohort, SUBJECTS[1])
    assert known == {key: stored[key] for key in known} and set(stored) - set(known) == {"dxa"}


def test_a_second_run_keeps_files_and_mends_only_what_is_missing(cohort: Path) -> None:
    files = sorted(path for path in cohort.rglob("*") if path.is_file())
    lost = cohort / SUBJECTS[1] / f"{SUBJECTS[1]}_dxa.nii.gz"
    before, content = {f: f.stat().st_mtime_ns for f in files}, lost.read_bytes()
    lost.unlink()
    phantom.write_phantom_body(cohort, 2, SEED, SPACING_MM)
    assert {f.parent.name for f in files if f.stat().st_mtime_ns != before[f]} == {SUBJECTS[1]}
    assert lost.read_bytes() == content


def test_two_processes_write_the_same_bytes_as_one(cohort: Path, tmp_path: Path) -> None:
    phantom.write_phantom_body(tmp_path, 2, SEED, SPACING_MM, workers=2)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 * 5 and all((tmp_path / f).read_bytes() == (cohort / f).read_bytes() for f in files)


def test_the_workflow_generates_and_reads_the_cohort(tmp_path: Path) -> None:
    labels = Labels("parts", PARTS)
    settings = {"n_patients": 1, "seed": 3, "spacing_mm": 12.0}
    entry = Cohort("phantom-body", phantom.CONTRASTS, labels=labels, foreground="otsu", generate=settings)
    generate(entry, tmp_path)
    (files,) = find_subjects(entry, tmp_path)
    subject = read_subject(files, entry)
    assert (subject.name, subject.images.shape) == ("1000000_2_0", (2, 40, 28, 92))
    assert set(np.unique(subject.labels)) <= {0, *PARTS}


# Images -----------------------------------------------------------------------------------------------------------


def test_the_foreground_is_the_body_and_noise_lies_around_it(cohort: Path) -> None:
    for subject in SUBJECTS:
        fat, water, parts = (read_volume(cohort / subject / f"{subject}_{n}.nii.gz").array for n in ("fat", "water", "parts"))
        assert (fat == np.rint(fat)).all() and fat.min() >= 0 and fat.max() < 32767
        front = water[:, -1]
        assert not parts[:, -1].any() and front.std() > 0 and front.mean() < 0.1 * water[parts == PART["muscle"]].mean()
        mask = foreground(np.stack([fat, water]), "otsu")
        assert mask[parts > 0].mean() > 0.97 and mask.sum() < 1.3 * (parts > 0).sum()


def test_signals_of_water_and_fat_are_those_of_the_tissues(body: Body) -> None:
    level = {n: (np.median(body.water[body.parts == i]), np.median(body.fat[body.parts == i])) for i, n in PARTS.items()}
    brightest = level["subcutaneous fat"][1]
    assert all(fat > 5 * water for water, fat in (level["subcutaneous fat"], level["visceral fat"]))
    assert all(water > 5 * fat for water, fat in (level["muscle"], level["heart"], level["spleen"], level["aorta"]))
    assert max(level["lung"]) < 0.05 * brightest
    assert level["liver"][0] > 1.15 * level["muscle"][0] > 1.3 * level["bladder"][0]  # by their T1
    water, fat = level["vertebra"]
    assert 0.2 < fat / (fat + water) < 0.8  # red marrow
    assert level["femur"][1] > level["femur"][0]  # yellow


def test_a_fatty_liver_has_the_fat_that_it_says() -> None:
    lean, fatty = amounts("liver", 0.0), amounts("liver", 0.2)
    assert fatty[0] == pytest.approx(0.8 * lean[0]) and fatty[1] > lean[1] == 0


# Anatomy ----------------------------------------------------------------------------------------------------------


def test_every_part_is_there_and_as_large_as_in_people(body: Body) -> None:
    litres = {name: (body.parts == number).sum() * 6.0**3 / 1e6 for number, name in PARTS.items()}
    ranges = {
        **{"muscle": (15, 35), "lung": (2.5, 6), "liver": (0.9, 2.2), "heart": (0.3, 0.9), "spleen": (0.06, 0.35)},
        **{"kidney": (0.15, 0.45), "vertebra": (0.4, 1.0), "femur": (0.8, 2), "pelvis": (0.4, 1.2), "aorta": (0.08, 0.3)},
        **{"bladder": (0.03, 0.5), "bowel": (0.6, 3.5), "intervertebral disc": (0.05, 0.25), "visceral fat": (0.3, 9)},
    }
    assert all(low < litres[name] < high for name, (low, high) in ranges.items()), litres
    assert min(litres.values()) > 0.005


def test_organs_lie_on_their_sides(body: Body) -> None:
    liver, spleen, stomach, heart = (centre_mm(body, name) for name in ("liver", "spleen", "stomach", "heart"))
    assert liver[0] > 30 and spleen[0] < -50 and stomach[0] < -20 and heart[0] < -5
    assert heart[2] > liver[2] > centre_mm(body, "kidney")[2] > centre_mm(body, "bladder")[2]
    assert centre_mm(body, "aorta")[1] > 0 > centre_mm(body, "spinal canal")[1]  # before and behind the vertebrae
    assert centre_mm(body, "vena cava")[0] > centre_mm(body, "aorta")[0]
    kidneys = np.argwhere(body.parts == PART["kidney"])[:, 0] * 6.0 - 240
    assert 0.3 < (kidneys > body.centre_line[:, 0].mean()).mean() < 0.7


def test_the_centre_line_runs_through_vertebrae_and_discs(body: Body) -> None:
    voxels = np.rint((body.centre_line - body.affine[:3, 3]) / 6.0).astype(int)
    assert np.isin(body.parts[tuple(voxels.T)], [PART["vertebra"], PART["intervertebral disc"]]).mean() > 0.97
    steps = np.linalg.norm(np.diff(body.centre_line, axis=0), axis=1)
    assert 350 < steps.sum() < 600 and (np.diff(body.centre_line[:, 2]) > 0).all()


def test_seventeen_discs_lie_between_c7_and_s1() -> None:
    levels = disc_levels()
    assert ((levels > 97) & (levels < 559)).sum() == 17 and (np.diff(levels) < 0).all()
    assert (np.diff(levels)[-5:] < -30).all() and (np.diff(levels)[:8] > -20).all()  # lumbar tall, cervical flat


def test_a_person_is_the_same_at_every_spacing(cohort: Path) -> None:
    stored, fine = truth(cohort, SUBJECTS[1]), phantom.truth(draw_body(SEED, 1, 6.0), 6.0)
    assert stored["spine_centre_line_mm"] == fine["spine_centre_line_mm"]
    assert fine["body_volume_l"] == pytest.approx(stored["body_volume_l"], rel=0.01)
    assert fine["fat_fraction"] == pytest.approx(stored["fat_fraction"], abs=0.015)
    assert fine["visceral_fat_l"] == pytest.approx(stored["visceral_fat_l"], rel=0.15)


def test_people_differ_as_people_do() -> None:
    people = [draw_person(np.random.default_rng([1, i, 0])) for i in range(300)]
    women = [p for p in people if p.female]
    assert 0.4 < len(women) / len(people) < 0.65
    height = [np.mean([p.height_mm for p in people if p.female == female]) for female in (True, False)]
    assert height == pytest.approx([1630, 1760], abs=20)
    assert np.corrcoef([p.bmi for p in people], [p.subcutaneous_mm for p in people])[0, 1] > 0.6
    z = np.arange(100, 560, 5, dtype=np.float32)
    bends = np.sort([2 * np.rad2deg(np.arctan(np.abs(p.spine.x_slope(z)).max())) for p in people])
    assert bends[150] < 12 and 20 < bends[-1] < 50  # most spines are nearly straight; a few are scoliotic


def test_fat_of_the_image_follows_the_fat_of_the_person() -> None:
    people = {i: draw_person(np.random.default_rng([2, i, 0])) for i in range(60)}
    women = sorted((i for i in people if people[i].female), key=lambda i: people[i].bmi)
    lean, fat = (phantom.truth(draw_body(2, i, 12.0), 12.0) for i in (women[0], women[-1]))
    assert fat["bmi"] > lean["bmi"] + 10 and fat["fat_fraction"] > lean["fat_fraction"] + 0.08
    assert fat["body_volume_l"] > lean["body_volume_l"] and fat["visceral_fat_l"] > 1.5 * lean["visceral_fat_l"]


def test_the_map_of_a_person_never_folds_and_is_inverted() -> None:
    for patient in range(2):
        bend = Bend(draw_person(np.random.default_rng([SEED, patient, 0])), np.random.default_rng([SEED, patient, 1]))
        layout = bend.layout(DRAWN, BEND_MM)
        jacobian = np.stack([np.stack(np.gradient(axis, BEND_MM)) for axis in layout])
        assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0.2
        points = np.array([(0.0, -40.0, 100.0), (5.0, -60.0, 400.0), (-90.0, 0.0, 0.0)])
        world = bend.world(points).T.reshape(3, -1, 1, 1).astype(np.float32)
        back = (world + sample(DRAWN, bend.displacement, world, BEND_MM) - bend.origin) / bend.scale
        np.testing.assert_allclose(back.reshape(3, -1).T, points, atol=0.05)


def test_fields_are_interpolated_as_at_any_point() -> None:
    bend = Bend(draw_person(np.random.default_rng(1)), np.random.default_rng(2))
    world = grid_mm(FIELD, 12.0)
    expected = (world + sample(DRAWN, bend.displacement, world, BEND_MM) - bend.origin) / bend.scale
    np.testing.assert_allclose(bend.layout(FIELD, 12.0), expected, atol=1e-3)


# DXA --------------------------------------------------------------------------------------------------------------


def test_the_dxa_is_one_coronal_image_of_attenuation(cohort: Path) -> None:
    for subject in SUBJECTS:
        dxa = read_image(cohort / subject / f"{subject}_dxa.nii.gz")
        assert dxa.shape == (140, 1, 296) and (dxa.array == np.rint(dxa.array)).all()
        np.testing.assert_allclose(dxa.spacing_mm, 4.0)
        placed = truth(cohort, subject)["dxa"]
        assert np.hypot(placed["shift_x_mm"], placed["shift_z_mm"]) <= 25
        assert abs(placed["turn_deg"]) <= 2 and 0 <= placed["magnification"] <= 0.04


def test_bone_attenuates_most_and_fat_least() -> None:
    attenuation = {name: amounts(name)[2] for name in ("cortical", "marrow", "muscle", "fat", "lung", "air")}
    assert sorted(attenuation, key=attenuation.get) == ["air", "lung", "fat", "muscle", "marrow", "cortical"]


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing_mm", [1.0, 13.0, float("nan")])
def test_an_impossible_spacing_is_refused(spacing_mm: float) -> None:
    with pytest.raises(ValueError, match="expected 2 to 12"):
        phantom.body_subject(0, 0, spacing_mm)


def test_an_empty_cohort_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_patients=0, expected >= 1"):
        phantom.write_phantom_body(tmp_path, 0, 1)


def test_torch_is_not_needed() -> None:
    code = "import sys, xdiff.data.phantom_body; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
