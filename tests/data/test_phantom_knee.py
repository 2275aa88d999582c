"""The embedded knees: reproducible, the same at every spacing, with the parts of a knee where a knee has them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from xdiff.config import Cohort, Labels
from xdiff.data import knee_bones as bones
from xdiff.data import phantom_knee as phantom
from xdiff.data.__main__ import generate
from xdiff.data.cohorts import find_subjects, foreground, read_subject
from xdiff.data.implicit import Point
from xdiff.data.knee_anatomy import PARTS, layers
from xdiff.errors import InputError
from xdiff.volumes import read_volume

SEED, SPACING_MM = 7, 3.0
SUBJECTS = ["knee-00000", "knee-00001", "knee-00002"]
LABEL = {name: number for number, name in enumerate(PARTS, 1)}
# ml within the box, of 24 people at 3 mm with a margin; cartilage, menisci and ligaments as segmented from real MRI
VOLUMES_ML = {
    **{"femur": (90, 260), "tibia": (80, 220), "fibula": (5, 15), "patella": (8, 32), "femoral_cartilage": (7, 28)},
    **{"tibial_cartilage": (2.5, 9), "patellar_cartilage": (1.7, 7), "medial_meniscus": (1.8, 7), "lateral_meniscus": (1.8, 6)},
    **{"anterior_cruciate_ligament": (0.6, 3), "posterior_cruciate_ligament": (1, 4.5), "patellar_tendon": (2, 8)},
    **{"medial_collateral_ligament": (0.5, 3.5), "lateral_collateral_ligament": (0.2, 1.3), "quadriceps_tendon": (1.5, 6)},
    **{"hoffa_fat_pad": (8, 30), "joint_fluid": (1.2, 20), "popliteal_artery": (2, 7), "popliteal_vein": (3, 10)},
    **{"vastus_medialis": (12, 40), "vastus_lateralis": (4, 30), "vastus_intermedius": (0.05, 10), "hamstrings": (25, 110)},
    **{"sartorius_gracilis": (3, 22), "gastrocnemius": (55, 160), "deep_calf": (25, 80), "anterolateral_calf": (10, 35)},
    **{"deep_fat": (220, 650), "subcutaneous_fat": (30, 550), "skin": (55, 160)},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("knees")
    assert phantom.write_phantom_knee(out, 3, SEED, SPACING_MM) == SUBJECTS
    return out


@pytest.fixture(scope="module")
def fine() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    return phantom.knee_subject(SEED, 1, 1.5)


def load(cohort: Path, subject: str, name: str) -> np.ndarray:
    return read_volume(cohort / subject / f"{subject}_{name}.nii.gz").array


def volumes_ml(parts: np.ndarray, spacing_mm: float) -> np.ndarray:
    return np.bincount(parts.astype(int).ravel(), minlength=len(PARTS) + 1)[1:] * spacing_mm**3 / 1000


def centre_mm(parts: np.ndarray, affine: np.ndarray, name: str) -> np.ndarray:
    return affine[:3, :3] @ np.argwhere(parts == LABEL[name]).mean(0) + affine[:3, 3]


# Files --------------------------------------------------------------------------------------------------------------


def test_files_are_whole_numbers_named_after_subject_and_contrast(cohort: Path) -> None:
    found = sorted(str(path.relative_to(cohort)) for path in cohort.rglob("*") if path.is_file())
    assert found == sorted(f"{s}/{s}_{name}.nii.gz" for s in SUBJECTS for name in ("pd", "pdfs", "parts"))
    for subject in SUBJECTS:
        for name in phantom.CONTRASTS:
            image = load(cohort, subject, name)
            assert image.shape == (50, 50, 50) and image.min() >= 0 and 200 < image.max() < 6000
            assert (image == np.rint(image)).all()


def test_a_subject_depends_on_seed_and_patient_alone(cohort: Path) -> None:
    images, parts, affine = phantom.knee_subject(SEED, 2, SPACING_MM)
    for name, array in {**images, "parts": parts}.items():
        stored = read_volume(cohort / SUBJECTS[2] / f"{SUBJECTS[2]}_{name}.nii.gz")
        assert stored.array.tobytes() == array.astype(np.float32).tobytes(), name
        np.testing.assert_allclose(stored.affine, affine)
    other, _, _ = phantom.knee_subject(SEED + 1, 2, SPACING_MM)
    assert not np.array_equal(other["pd"], images["pd"])


def test_a_second_run_keeps_files_and_mends_only_what_is_missing(cohort: Path) -> None:
    files = sorted(cohort.rglob("*.nii.gz"))
    lost = cohort / SUBJECTS[1] / f"{SUBJECTS[1]}_pdfs.nii.gz"
    before, content = {f: f.stat().st_mtime_ns for f in files}, lost.read_bytes()
    lost.unlink()
    phantom.write_phantom_knee(cohort, 3, SEED, SPACING_MM)
    assert lost.read_bytes() == content
    assert all(f.stat().st_mtime_ns == before[f] for f in files if f.parent.name != SUBJECTS[1])


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    for workers in (1, 2):
        phantom.write_phantom_knee(tmp_path / str(workers), 2, 5, spacing_mm=8.0, workers=workers)
    one, two = (sorted((tmp_path / w).rglob("*.nii.gz")) for w in ("1", "2"))
    assert len(one) == 2 * 3 and [p.name for p in one] == [p.name for p in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_a_cohort_entry_makes_finds_and_reads_them(tmp_path: Path) -> None:
    labels = Labels("parts", dict(enumerate(PARTS, 1)))
    settings = {"n_patients": 2, "seed": 3, "spacing_mm": 6.0}
    entry = Cohort("phantom-knee", phantom.CONTRASTS, labels=labels, foreground="otsu", generate=settings)
    generate(entry, tmp_path)
    found = find_subjects(entry, tmp_path)
    assert [files.subject for files in found] == phantom.phantom_knee_names(2)
    subject = read_subject(found[0], entry)
    assert subject.images.shape == (2, 25, 25, 25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_patients": 0}, "found n_patients=0, expected at least 1"),
        ({"spacing_mm": 0.2}, "found spacing_mm=0.2, expected 0.5 to 8"),
        ({"spacing_mm": float("nan")}, "found spacing_mm=nan, expected 0.5 to 8"),
        ({"spacing_mm": 2.0, "slice_mm": 3.0}, "found slice_mm=3.0, expected 0 or a multiple of spacing_mm=2.0"),
        ({"spacing_mm": 2.0, "slice_mm": -4.0}, "found slice_mm=-4.0"),
        ({"spacing_mm": 2.0, "slice_mm": 50.0}, "up to 12"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        phantom.write_phantom_knee(tmp_path, **{"n_patients": 1, "seed": 0, **settings})


def test_torch_is_not_needed() -> None:
    code = "import sys, xdiff.data.phantom_knee; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Anatomy ------------------------------------------------------------------------------------------------------------


def test_every_part_is_there_in_a_plausible_volume(cohort: Path, fine: tuple) -> None:
    assert set(VOLUMES_ML) == set(PARTS)
    found = [volumes_ml(load(cohort, subject, "parts"), SPACING_MM) for subject in SUBJECTS]
    for volumes in [*found, volumes_ml(fine[1], 1.5)]:
        for name, volume in zip(PARTS, volumes, strict=True):
            low, high = VOLUMES_ML[name]
            assert low < volume < high, name


def test_parts_are_the_same_at_every_spacing(cohort: Path, fine: tuple) -> None:
    coarse = read_volume(cohort / SUBJECTS[1] / f"{SUBJECTS[1]}_parts.nii.gz")
    _, parts, affine = fine
    pairs = zip(PARTS, volumes_ml(coarse.array, SPACING_MM), volumes_ml(parts, 1.5), strict=True)
    compared = [(name, one, other) for name, one, other in pairs if other > 5]  # thin ones lose the vote of a large voxel
    assert len(compared) > 12
    for name, at_3mm, at_1p5mm in compared:
        assert at_3mm == pytest.approx(at_1p5mm, rel=0.15), name
        there, here = centre_mm(coarse.array, coarse.affine, name), centre_mm(parts, affine, name)
        np.testing.assert_allclose(there, here, atol=1.5, err_msg=name)


def test_signal_is_the_same_at_every_spacing() -> None:
    coarse, _ = phantom._draw(SEED, 1, 4.0, 1)
    fine, _ = phantom._draw(SEED, 1, 2.0, 1)
    for name in phantom.CONTRASTS:
        smooth = fine[name]
        for axis in range(3):
            smooth = ndimage.convolve1d(smooth, [0.25, 0.5, 0.25], axis=axis)[(slice(None),) * axis + (slice(None, None, 2),)]
        inside = (slice(1, -1),) * 3
        there, here = coarse[name][inside], smooth[inside]
        assert np.corrcoef(there.ravel(), here.ravel())[0, 1] > 0.985
        assert there.mean() == pytest.approx(here.mean(), rel=0.02)


def test_thick_slices_are_means_of_thin_ones() -> None:
    thin, _ = phantom._draw(SEED, 0, 3.0, 1)
    thick, _ = phantom._draw(SEED, 0, 3.0, 2)
    for name in phantom.CONTRASTS:
        np.testing.assert_allclose(thick[name], thin[name].reshape(25, 2, 50, 50).mean(1), rtol=1e-4, atol=1e-5)
    _, parts, affine = phantom.knee_subject(SEED, 0, 3.0, 6.0)
    assert parts.shape == (25, 50, 50)
    np.testing.assert_allclose(affine, [[6, 0, 0, -73.5], [0, 3, 0, -86], [0, 0, 3, -75], [0, 0, 0, 1]])


def test_people_are_left_and_right_lean_and_obese_straight_and_bent() -> None:
    people = [phantom.draw_knee(np.random.default_rng([SEED, patient, 0])) for patient in range(40)]
    assert {knee.side for knee in people} == {-1, 1}
    for name, least in (("flexion", 12), ("fat_mm", 6), ("size", 0.12), ("effusion", 0.4), ("valgus", 3)):
        values = [getattr(knee, name) for knee in people]
        assert max(values) - min(values) > least, name
    assert all(0 <= knee.flexion <= 20 for knee in people)


def test_the_fibula_is_on_the_outer_side(cohort: Path) -> None:
    for patient, subject in enumerate(SUBJECTS):
        volume = read_volume(cohort / subject / f"{subject}_parts.nii.gz")
        fibula, tibia = (centre_mm(volume.array, volume.affine, name) for name in ("fibula", "tibia"))
        lateral = phantom.person(SEED, patient)[0].side
        assert lateral * (fibula[0] - tibia[0]) > 20
        assert fibula[1] < tibia[1] and fibula[2] < 0
        medial, outer = (centre_mm(volume.array, volume.affine, f"{side}_meniscus")[0] for side in ("medial", "lateral"))
        assert lateral * (outer - medial) > 25


def test_menisci_lie_between_femur_and_tibia(fine: tuple) -> None:
    _, parts, _ = fine
    above = np.isin(parts, [LABEL["femur"], LABEL["femoral_cartilage"]])
    below = np.isin(parts, [LABEL["tibia"], LABEL["tibial_cartilage"]])
    roof = np.maximum.accumulate(above[..., ::-1], axis=2)[..., ::-1]  # femur somewhere higher up
    floor = np.maximum.accumulate(below, axis=2)
    for name in ("medial_meniscus", "lateral_meniscus"):
        meniscus = parts == LABEL[name]
        assert (roof & floor)[meniscus].mean() > 0.8  # the rim stands out a little
        assert np.ptp(np.argwhere(meniscus)[:, 2]) * 1.5 < 20


def test_bones_never_meet() -> None:
    axes = (np.arange(-50, 51, 1.5), np.arange(-45, 56, 1.5), np.arange(-40, 55, 1.5))
    points = Point(*np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32))
    for patient in range(4):
        knee = bones.draw_knee(np.random.default_rng([SEED, patient, 0]))
        femur = bones.femur(bones.bend(points, knee), knee)
        tibia = bones.tibia(points, knee, bones.plateau(points, knee)[0])
        patella = bones.patella(points, knee)[0]
        for a, b, room_mm in ((femur, tibia, 3), (femur, patella, 3), (tibia, bones.fibula(points), 0)):
            assert (a < 0).any() and (b < 0).any()
            assert np.maximum(a, b).min() > room_mm / 2 - 0.05  # of a point half way between


def along(knee: bones.Knee, start: tuple[float, float, float], axis: int, step_mm: float = 0.1) -> dict[str, float]:
    """mm of every part on a line of 30 mm along an axis of the tibia's frame, in world mm."""
    straight = replace(knee, turn=(0.0, 0.0, 0.0), shift_mm=(0.0, 0.0, 0.0))
    points = np.repeat(np.array(start)[:, None], 300, axis=1) * [[knee.side * knee.size], [knee.size], [knee.size]]
    points[axis] += step_mm * np.arange(300)
    left, found = np.ones(300), dict.fromkeys(PARTS, 0.0)
    for group in layers(points.astype(np.float32), straight, step_mm):
        for part, _, fraction in group:
            found[part] = found.get(part, 0.0) + float((left * fraction).sum()) * step_mm
        left = left * np.clip(1 - sum(fraction for _, _, fraction in group), 0, 1)
    return found


def test_cartilage_is_as_thick_as_drawn_where_it_bears() -> None:
    for patient in range(8):
        knee = bones.draw_knee(np.random.default_rng([SEED, patient, 0]))
        femoral, tibial, patellar = knee.cartilage_mm
        assert all(1.5 <= thick <= 3 for thick in knee.cartilage_mm)
        for x in (-22, 22):  # upwards through either condyle, not quite at right angles to both surfaces
            up = along(knee, (x, 0, -8), axis=2)
            assert up["femoral_cartilage"] == pytest.approx(femoral, rel=0.2)
            assert up["tibial_cartilage"] == pytest.approx(tibial, rel=0.2)
        forwards = along(knee, (12, 20, 30), axis=1)
        assert forwards["femoral_cartilage"] == pytest.approx(femoral, rel=0.2)
        assert forwards["patellar_cartilage"] == pytest.approx(patellar, rel=0.25)


def test_flexion_turns_the_thigh_backwards_and_leaves_the_joint_closed() -> None:
    axes = (np.arange(-25, 26, 1.5), np.arange(-60, 60, 1.5), np.arange(70, 76, 1.5))
    points = Point(*np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32))
    knee = replace(bones.draw_knee(np.random.default_rng(0)), flexion=0.0)
    shaft_y = []
    for flexion in (0.0, 20.0):
        femur = bones.femur(bones.bend(points, replace(knee, flexion=flexion)), knee) < 0
        shaft_y.append(points.y[femur].mean())
    assert shaft_y[0] - shaft_y[1] == pytest.approx(42 * np.sin(np.deg2rad(20)), abs=2)


def test_the_deformation_never_folds() -> None:
    for patient in range(3):
        _, displacement = phantom.person(SEED, patient)
        jacobian = np.stack([np.stack(np.gradient(axis, phantom.WORK_MM)) for axis in displacement])
        determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3))
        assert 0.2 < determinant.min() and determinant.max() < 4
        assert np.abs(displacement).max() > 2


# Contrast -----------------------------------------------------------------------------------------------------------


def test_contrasts_are_ordered_as_in_proton_density_imaging(fine: tuple) -> None:
    images, parts, _ = fine
    level = {name: {part: np.median(image[parts == LABEL[part]]) for part in PARTS} for name, image in images.items()}
    pd, pdfs = level["pd"], level["pdfs"]
    for fat in ("subcutaneous_fat", "deep_fat", "hoffa_fat_pad", "femur", "tibia"):  # marrow is fat
        assert pd[fat] > 1.4 * pd["femoral_cartilage"] and pd[fat] > 1.8 * pd["gastrocnemius"]
        assert pdfs[fat] < 0.45 * pdfs["gastrocnemius"] < 0.45 * pdfs["femoral_cartilage"]
    for meniscus in ("medial_meniscus", "lateral_meniscus"):
        for one in (pd, pdfs):
            assert one[meniscus] < 0.6 * one["femoral_cartilage"]
    assert max(pdfs, key=pdfs.__getitem__) == "joint_fluid"
    assert pd["posterior_cruciate_ligament"] < 0.6 * pd["anterior_cruciate_ligament"]
    assert pd["popliteal_artery"] < 0.5 * pd["popliteal_vein"]


def test_signal_equations_give_the_order_of_pure_tissues() -> None:
    pd, pdfs = (
        {tissue: phantom._signal(name, *values) for tissue, values in phantom.TISSUES.items()} for name in phantom.CONTRASTS
    )
    assert pd["fat"] > pd["fluid"] > pd["cartilage"] > pd["muscle"] > pd["acl"] > pd["meniscus"] > pd["tendon"] > pd["cortex"]
    assert sorted(pdfs, key=pdfs.__getitem__)[-3:] == ["vein", "cartilage", "fluid"]
    assert pdfs["fluid"] > 1.4 * pdfs["cartilage"] and pdfs["fat"] < 0.15 * pd["fat"]


def test_the_background_is_noise_and_otsu_finds_the_limb(cohort: Path) -> None:
    for subject in SUBJECTS:
        images = np.stack([load(cohort, subject, name) for name in phantom.CONTRASTS])
        limb = load(cohort, subject, "parts") > 0
        far = ~ndimage.binary_dilation(limb, iterations=3)
        for image in images:
            air = image[far]
            assert air.std() / air.mean() == pytest.approx(np.sqrt(4 / np.pi - 1), abs=0.12)  # Rayleigh
            assert 0 < air.mean() < 0.12 * np.percentile(image, 99.5)
        mask = foreground(images, "otsu")
        assert 2 * (mask & limb).sum() / (mask.sum() + limb.sum()) > 0.95


def test_the_coil_is_brighter_near_the_skin_and_falls_off_along_the_leg() -> None:
    coil = phantom.Coil(np.random.default_rng(0))
    at_mm = np.array([[0, -8, 0], [60, -8, 0], [0, -8, 75], [0, -8, -75]], np.float32).T
    middle, skin, top, bottom = coil.sensitivity(at_mm)
    assert 1.15 < skin / middle < 2.5
    assert top < 0.85 * middle and bottom < 0.85 * middle
