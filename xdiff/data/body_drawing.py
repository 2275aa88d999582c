"""One person of the embedded body cohort on voxels: the layout, scaled and bent, painted from outside to inside."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from xdiff.data import body_bones, body_muscles, body_organs
from xdiff.data.body_person import C7_T1_MM, L5_S1_MM, Person, draw_person
from xdiff.data.body_surface import Surface, paint_outline
from xdiff.data.fields import Box, exp, grid_mm, noise, sample
from xdiff.data.solids import Canvas

FIELD = Box((-240.0, -168.0, -552.0), (480.0, 336.0, 1104.0))  # neck to knees, about as UK Biobank stitches them
DRAWN = Box((-336.0, -168.0, -648.0), (672.0, 336.0, 1296.0))  # what random fields cover: a DXA's field of view is larger
PARTS = {
    **{1: "subcutaneous fat", 2: "visceral fat", 3: "muscle", 4: "intermuscular fat", 5: "vertebra", 6: "intervertebral disc"},
    **{7: "spinal canal", 8: "sacrum", 9: "pelvis", 10: "femur", 11: "rib cage", 12: "arm and shoulder bones", 13: "lung"},
    **{14: "airway", 15: "heart", 16: "aorta", 17: "vena cava", 18: "vessel", 19: "liver", 20: "gallbladder", 21: "spleen"},
    **{22: "pancreas", 23: "kidney", 24: "stomach", 25: "bowel", 26: "bladder", 27: "uterus or prostate", 28: "thyroid"},
    **{29: "mediastinal fat"},
}
PART = {name: number for number, name in PARTS.items()}
BEND_MM, FOLDS_MM = 16.0, 8.0  # grids that fields are held on, whatever the voxels
CENTRE_STEP_MM = 5.0


class Body(NamedTuple):
    """`water`, `fat` (signals without noise) and `attenuation` of X-rays (1/cm), (X, Y, Z) float32; `parts` uint8 of PARTS;
    `skin_mm` the distance from the skin, negative inside; `centre_line` (n, 3) the middles of the vertebral bodies and discs
    from L5/S1 up to C7/T1, RAS mm; `affine` (4, 4)."""

    person: Person
    water: np.ndarray
    fat: np.ndarray
    attenuation: np.ndarray
    parts: np.ndarray
    skin_mm: np.ndarray
    centre_line: np.ndarray
    affine: np.ndarray


def draw_body(seed: int, patient: int, spacing_mm: float, box: Box = FIELD) -> Body:
    """Patient `patient` of cohort `seed` in a box within DRAWN. Raises ValueError outside 2 to 12 mm."""
    if not 2 <= spacing_mm <= 12:
        raise ValueError(f"phantom-body: found spacing_mm={spacing_mm}, expected 2 to 12")
    person, bend, ragged, folds = _drawn(seed, patient)
    canvas = Canvas(bend.layout(box, spacing_mm), spacing_mm / person.size, 3)
    ragged, folds = (_on_grid(field, mm, box, spacing_mm) for field, mm in ((ragged, BEND_MM), (folds, FOLDS_MM)))
    skin = paint_body(canvas, person, ragged, folds)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = box.origin_mm
    levels = np.arange(L5_S1_MM, C7_T1_MM + 1, CENTRE_STEP_MM)
    line = bend.world(np.array([person.spine.at(level) for level in levels]))
    return Body(person, *canvas.amounts, canvas.parts, skin * np.float32(person.size), line, affine)


@lru_cache(maxsize=1)
def _drawn(seed: int, patient: int) -> tuple[Person, Bend, np.ndarray, np.ndarray]:
    """All that is random about a body: MRI and DXA of a person ask for it one after the other."""
    person = draw_person(np.random.default_rng([seed, patient, 0]))
    bend = Bend(person, np.random.default_rng([seed, patient, 1]))
    rng = np.random.default_rng([seed, patient, 2])
    return person, bend, 0.08 * noise(DRAWN, rng, 70, BEND_MM), noise(DRAWN, rng, 16, FOLDS_MM)


def _on_grid(field: np.ndarray, held_mm: float, box: Box, spacing_mm: float) -> np.ndarray:
    """Trilinear values (X, Y, Z) on a box's voxels of a field on DRAWN's grid of `held_mm`: as fields.sample, axis by axis."""
    for axis in range(3):
        n = int(np.ceil(box.size_mm[axis] / spacing_mm))
        at = (box.origin_mm[axis] - DRAWN.origin_mm[axis] + spacing_mm * np.arange(n)) / held_mm
        low = np.minimum(at.astype(int), field.shape[axis] - 2)
        part = np.clip(at - low, 0, 1).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        field = np.take(field, low, axis) * (1 - part) + np.take(field, low + 1, axis) * part
    return field


def paint_body(canvas: Canvas, person: Person, ragged: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Everything; returns the distance from the skin, (X, Y, Z) in mm of the layout."""
    surface = Surface(person)
    skin = paint_outline(canvas, surface, ragged)
    domes = body_organs.diaphragm(person, surface)
    body_bones.paint_arms(canvas, person, surface, PART["arm and shoulder bones"])
    body_bones.paint_rib_cage(canvas, person, surface, PART["rib cage"])
    body_organs.paint_chest(canvas, person, surface, domes, PART)
    body_muscles.paint_muscles(canvas, person, surface, PART)
    body_organs.paint_abdomen(canvas, person, surface, domes, folds, PART)
    body_bones.paint_spine(canvas, person, PART["vertebra"], PART["intervertebral disc"], PART["spinal canal"])
    body_bones.paint_pelvis(canvas, person, PART["pelvis"], PART["sacrum"])
    body_bones.paint_femurs(canvas, person, PART["femur"])
    return skin


class Bend:
    """World positions to positions in the layout: a random diffeomorphism, then the person's size and place on the table."""

    def __init__(self, person: Person, rng: np.random.Generator) -> None:
        knots = ((110, 4.0), (52, 1.8))  # mm between knots, and r.m.s. velocity in mm
        velocity = sum(rms * np.stack([noise(DRAWN, rng, knot, BEND_MM) for _ in range(3)]) for knot, rms in knots)
        self.displacement = exp(DRAWN, velocity, BEND_MM)
        self.scale = np.float32(person.scale).reshape(3, 1, 1, 1)
        top = FIELD.origin_mm[2] + FIELD.size_mm[2]  # is where the person's top_mm lies
        self.origin = np.float32([0.0, 6.0, top - person.top_mm * person.scale[2]]).reshape(3, 1, 1, 1)

    def layout(self, box: Box, spacing_mm: float) -> np.ndarray:
        """Positions (3, X, Y, Z) float32 in the layout of the voxels of a box."""
        moved = np.stack([_on_grid(field, BEND_MM, box, spacing_mm) for field in self.displacement])
        return (grid_mm(box, spacing_mm) + moved - self.origin) / self.scale

    def world(self, layout: np.ndarray) -> np.ndarray:
        """World positions (n, 3) of positions (n, 3) in the layout, by fixed-point iteration: the displacement's slope is < 1."""
        target = layout.T.reshape(3, -1, 1, 1) * self.scale + self.origin
        found = target
        for _ in range(40):
            found = target - sample(DRAWN, self.displacement, found, BEND_MM)
        return found.reshape(3, -1).T
