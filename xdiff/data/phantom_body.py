"""An embedded cohort: neck-to-knee Dixon MRI of bodies that were never there, laid out as stitched UK Biobank volumes, with DXA.

Everybody is drawn anew: sex, size, fat and spine (body_person.py), then outline, bones, muscles and organs as smooth solids,
bent by a random smooth diffeomorphism (body_drawing.py) and seen by a water/fat gradient echo. It tests the code and not the
science. All random fields are functions of (seed, patient) and of position in mm: one person is the same at every spacing.
Noise is not.

Arrays are RAS+ (x Right, y Anterior, z Superior); the middle of the field of view is the origin.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdiff.data.body_drawing import FIELD, PART, Body, draw_body
from xdiff.data.body_dxa import scan_dxa
from xdiff.data.fields import noise
from xdiff.data.workers import write_subjects
from xdiff.plain import write_json
from xdiff.volumes import write_volume

CONTRASTS = ("fat", "water")
FIRST_EID = 1_000_000  # UK Biobank's participants have seven digits
COIL_MM, TEXTURE_MM = 150.0, 9.0


def write_phantom_body(out: Path, n_patients: int, seed: int, spacing_mm: float = 6.0, workers: int = 1) -> list[str]:
    """Write patients 0 .. n_patients - 1 and return the subjects' names: OUT/SUBJECT/SUBJECT_{fat,water,parts,dxa}.nii.gz, and
    subject.json with what anatomy measures can be compared with (see `truth`).

    A subject depends on (seed, patient, spacing) alone, not on the number of `workers` (processes); one whose files all exist is
    left untouched.
    """
    if n_patients < 1:
        raise ValueError(f"phantom-body: found n_patients={n_patients}, expected >= 1")
    folders = [Path(out) / name for name in phantom_body_names(n_patients)]
    work = [(folder, seed, patient, spacing_mm) for patient, folder in enumerate(folders)]
    return write_subjects(_write_subject, work, workers)


def phantom_body_names(n_patients: int) -> list[str]:
    """The subjects that `write_phantom_body` writes: EID_2_0, the first imaging visit, as UK Biobank names it."""
    return [f"{FIRST_EID + patient}_2_0" for patient in range(n_patients)]


def body_subject(
    seed: int, patient: int, spacing_mm: float
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, dict[str, object]]:
    """One scan of one person: contrast -> float32 (X, Y, Z) of whole numbers, uint8 labels of PARTS, affine (4, 4), and the
    truth.

    Around the body lies noise, not 0, as in a scanner's magnitude images. Raises ValueError outside 2 to 12 mm.
    """
    body = draw_body(seed, patient, spacing_mm)
    images = _scan(body, spacing_mm, np.random.default_rng([seed, patient, 3]))
    return images, body.parts, body.affine, truth(body, spacing_mm)


def truth(body: Body, spacing_mm: float) -> dict[str, object]:
    """What the drawing knows about the person inside the field of view.

    spine_centre_line_mm: middles of the vertebral bodies and discs from L5/S1 up to C7/T1, RAS mm; body_volume_l: inside the
    skin, lungs and gas included; fat_fraction: fat's part of the noiseless signal there; visceral_fat_l: what PARTS calls so.
    """
    inside = np.clip(0.5 - body.skin_mm / spacing_mm, 0, 1)
    litres = spacing_mm**3 / 1e6
    fat, water = float((body.fat * inside).sum(dtype=np.float64)), float((body.water * inside).sum(dtype=np.float64))
    person = body.person
    return {
        "sex": "female" if person.female else "male",
        "height_mm": round(person.height_mm),
        "bmi": round(person.bmi, 1),
        "body_volume_l": round(float(inside.sum(dtype=np.float64)) * litres, 3),
        "fat_fraction": round(fat / (fat + water), 4),
        "visceral_fat_l": round(int((body.parts == PART["visceral fat"]).sum()) * litres, 3),
        "spine_centre_line_mm": body.centre_line.round(2).tolist(),
    }


def _write_subject(folder: Path, seed: int, patient: int, spacing_mm: float) -> None:
    names = (*CONTRASTS, "parts", "dxa")
    paths = {name: folder / f"{folder.name}_{name}.nii.gz" for name in names}
    record = folder / "subject.json"
    if record.exists() and all(path.exists() for path in paths.values()):
        return
    images, parts, affine, known = body_subject(seed, patient, spacing_mm)
    for name in CONTRASTS:
        write_volume(paths[name], images[name].astype(np.int16), affine)
    write_volume(paths["parts"], parts, affine)
    dxa, dxa_affine, placed = scan_dxa(seed, patient)
    write_volume(paths["dxa"], dxa.astype(np.int16), dxa_affine)
    write_json(record, {**known, "dxa": placed})


def _scan(body: Body, spacing_mm: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Water and fat (X, Y, Z) float32 of whole numbers: signal x texture x sensitivity of the coils, Rician noise, one gain."""
    coils = np.exp(0.14 * noise(FIELD, rng, COIL_MM, spacing_mm))
    texture = 1 + 0.03 * noise(FIELD, rng, TEXTURE_MM, spacing_mm)
    signals = {"water": body.water * coils * texture, "fat": body.fat * coils * texture}
    top = np.percentile((signals["water"] + signals["fat"])[body.skin_mm < 0], 99.5)
    sigma = np.float32(rng.uniform(0.01, 0.02) * top)
    gain = np.exp(rng.uniform(np.log(300), np.log(1300))) / top
    images = {}
    for name in CONTRASTS:
        real, imaginary = sigma * rng.standard_normal((2, *body.parts.shape), dtype=np.float32)
        images[name] = np.minimum(np.rint(np.hypot(signals[name] + real, imaginary) * gain), 32767).astype(np.float32)
    return images
