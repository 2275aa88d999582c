"""What fills the voxels of a knee: bones, cartilage, menisci, ligaments, tendons, fluid, vessels, muscles, fat and skin.

`layers` gives them from the inside out. A voxel belongs to the first layer that covers it, in the fraction that its border
gives: signed distances of the shapes in knee_bones.py and here make partial volume at every spacing. Cartilage 1.7 to 3 mm
thick (Eckstein 2006, Osteoarthritis Cartilage), menisci 10 to 13 mm wide and 5 to 7 mm high at the rim (Erbagci 2004,
Surg Radiol Anat).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xdiff.data import knee_bones as bones
from xdiff.data.implicit import Point, arc, both, column, cord, covered, ellipsoid, ramp, union
from xdiff.data.knee_bones import Knee
from xdiff.data.knee_columns import BELOW_FASCIA, MUSCLES, VESSELS

PARTS = (
    "femur",
    "tibia",
    "fibula",
    "patella",
    "femoral_cartilage",
    "tibial_cartilage",
    "patellar_cartilage",
    "medial_meniscus",
    "lateral_meniscus",
    "anterior_cruciate_ligament",
    "posterior_cruciate_ligament",
    "medial_collateral_ligament",
    "lateral_collateral_ligament",
    "patellar_tendon",
    "quadriceps_tendon",
    "hoffa_fat_pad",
    "joint_fluid",
    "popliteal_artery",
    "popliteal_vein",
    "vastus_medialis",
    "vastus_lateralis",
    "vastus_intermedius",
    "hamstrings",
    "sartorius_gracilis",
    "gastrocnemius",
    "deep_calf",
    "anterolateral_calf",
    "deep_fat",
    "subcutaneous_fat",
    "skin",
)  # part i has label i + 1; 0 is air

Layer = tuple[str, str, np.ndarray]  # part, tissue, fraction of what the layers before have left
CORTEX_MM = {"femur": 1.0, "tibia": 1.0, "fibula": 1.2, "patella": 1.1}


def _shells(
    name: str,
    bone_mm: np.ndarray,
    voxel_mm: float,
    cartilage: str = "",
    thick_mm: np.ndarray | float = 0.0,
    scar: np.ndarray | float = 0.0,
) -> list[Layer]:
    """Marrow, cortex and cartilage as nested shells, whose fractions add up exactly. `scar`: part of the marrow that is bone."""
    inner, outer = covered(bone_mm + CORTEX_MM[name], voxel_mm), covered(bone_mm, voxel_mm)
    layers = [(name, "marrow", inner * (1 - scar)), (name, "cortex", outer - inner * (1 - scar))]
    return [*layers, (cartilage, "cartilage", covered(bone_mm - thick_mm, voxel_mm) - outer)] if cartilage else layers


def _scar(p: Point, z_mm: float, voxel_mm: float) -> np.ndarray:
    """Fraction of bone in the marrow that the closed growth plate has left: a thin wavy sheet."""
    wave = p.z - z_mm - 1.5 * np.sin(p.x / 9) * np.cos(p.y / 8) + np.square(p.x / 22)
    return 0.45 * np.clip(covered(np.abs(wave) - 0.5, voxel_mm), 0, min(1.0, 1.0 / voxel_mm))


# ---------------------------------------------------------------- cartilage


def _femoral_mm(p: Point, knee: Knee) -> np.ndarray:
    """Thickness of the femoral cartilage in mm at points of the femur frame; 0 off the articular surface."""
    top = 34 + 8 * ramp(p.y, 5, 20)  # the trochlea reaches higher than the condyles do behind
    on_surface = ramp(p.z, top + 2, top - 2) * ramp(np.abs(p.x), 36, 33) * ramp(bones.notch(p, knee), 0, 2.5)
    return np.float32(knee.cartilage_mm[0] / knee.size) * on_surface


def _tibial_mm(p: Point, knee: Knee, height: np.ndarray, outlines: Sequence[np.ndarray]) -> np.ndarray:
    inside = ramp(np.minimum(*outlines), -0.5, -2.5) * ramp(np.abs(p.x), 8, 11) * ramp(height, -4, -2)
    return np.float32(knee.cartilage_mm[1] / knee.size) * inside


def _patellar_mm(p: Point, knee: Knee, bone: np.ndarray, facets: np.ndarray) -> np.ndarray:
    behind = ramp(facets - bone, -3, -1) * ramp(p.z - 27 - knee.patella_up_mm, -14, -10)  # the lower pole has none
    return np.float32(knee.cartilage_mm[2] / knee.size) * behind


# ---------------------------------------------------------------- menisci, ligaments, tendons, fluid


def _meniscus(height: np.ndarray, outline: np.ndarray, along: np.ndarray, gap: np.ndarray, width_mm: float) -> np.ndarray:
    """A wedge that thins from the rim of the plateau inwards: `height` above the cartilage, `outline` < 0 inside the half of
    the plateau; open towards the spines, where `gap` < 0. `along`: to the front."""
    width = width_mm * (1 - 0.15 * np.tanh(along / 10))  # the posterior horn is the wider one
    roof = height - 6.8 * (1 + outline / width)
    body = both(both(-height - 0.4, roof, 1), outline - 1, 1.5)
    return both(body, -gap, 2)


def _menisci(p: Point, knee: Knee, height: np.ndarray, outlines: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """`height` above the tibial cartilage."""
    gaps = both(-11 - p.x, np.abs(p.y + 3) - 11), both(p.x - 11, np.abs(p.y + 2) - 8)
    names = ("medial_meniscus", "lateral_meniscus")
    return {
        name: _meniscus(height, outline, p.y, gap, width / knee.size)
        for name, outline, gap, width in zip(names, outlines, gaps, knee.meniscus_mm, strict=True)
    }


def _cruciates(p: Point, knee: Knee) -> dict[str, np.ndarray]:
    """The anterior one from the outer condyle forwards and down, the posterior one arching from the inner condyle backwards."""
    anterior = [bones.on_femur(knee, 7.5, -13, 22), (2, -2, 11), (-1, 9, 1)]
    posterior = arc(bones.on_femur(knee, -6, 1, 16), (-3, -23, 20), (0, -20, -8))
    return {
        "anterior_cruciate_ligament": cord(p, anterior, 4.0, (0.8, 1, 1)),
        "posterior_cruciate_ligament": cord(p, posterior, 4.4),
    }


def _collaterals(p: Point, knee: Knee) -> dict[str, np.ndarray]:
    medial = [bones.on_femur(knee, -40, -1, 31), (-42, 0, 2), (-40.5, 1, -10), (-31, 4, -42)]
    lateral = [bones.on_femur(knee, 40, -5, 29), (43, -21, -12)]
    return {
        "medial_collateral_ligament": cord(p, medial, 1.5, (1, 3.5, 1)),
        "lateral_collateral_ligament": cord(p, lateral, 2.2),
    }


def _tendons(p: Point, knee: Knee) -> dict[str, np.ndarray]:
    middle = 27 + knee.patella_up_mm
    patellar = [(1, 40.5, middle - 13), (3, 29, -41)]
    quadriceps = [(1, 40, middle + 15), bones.on_femur(knee, 0, 35, 68), bones.on_femur(knee, 0, 33, 130)]
    return {
        "patellar_tendon": cord(p, patellar, 2.4, (5, 1, 1)),
        "quadriceps_tendon": cord(p, quadriceps, 2.8, (5, 1, 1)),
    }


def _film(knee: Knee, surface: np.ndarray, cartilage: np.ndarray, cruciates: dict[str, np.ndarray]) -> np.ndarray:
    """Fluid that wets the femoral cartilage (its `surface`, where it is thick) and the cruciate ligaments."""
    bare = 9 * (cartilage < 0.5)
    return np.minimum(surface + bare, np.minimum(*cruciates.values()) + 0.3) - (0.5 + 1.2 * knee.effusion)


def _cleft(p: Point, height: np.ndarray, outlines: Sequence[np.ndarray]) -> np.ndarray:
    """Between the cartilages, where the menisci leave room: never fat."""
    return both(both(np.abs(height - 2.5) - 3.5, np.minimum(*outlines), 2), 9 - np.abs(p.x))


def _recess(p: Point, knee: Knee) -> np.ndarray:
    """The suprapatellar recess between quadriceps tendon and femur: a slit in a dry joint."""
    half_mm = 0.8 + 4.0 * knee.effusion
    path = [(1, 29, 40 + knee.patella_up_mm), bones.on_femur(knee, 0, 24.5, 64)]
    return cord(p, path, half_mm, (15 / half_mm, 1, 1))


# ---------------------------------------------------------------- what is round the joint


def _below_fascia(p: Point, soft: Point, near: Sequence[np.ndarray]) -> np.ndarray:
    """The limb without skin and subcutaneous fat; it lies on patella, patellar tendon and tibia in front."""
    limb = column(soft, BELOW_FASCIA)
    ridge = cord(p, [(1, 38, 14), (3, 30, -42)], 5)  # the patellar tendon under the skin
    for shape in (*near, ridge):
        limb = union(limb, shape - 2.5, 10)
    return limb


def _fat_mm(soft: Point, knee: Knee) -> np.ndarray:
    """Skin and subcutaneous fat: thin over the patella, thick behind and on the inner side."""
    thick = knee.fat_mm * (1 - 0.65 * ramp(soft.y, -10, 38)) * (1 + 0.25 * ramp(soft.x, 0, -40))
    return np.maximum(thick, 2.5)


def _soft_tissue(soft: Point, knee: Knee, fascia: np.ndarray, voxel: float) -> Iterator[list[Layer]]:
    for name, knots in VESSELS:
        yield [(name, name.split("_")[1], covered(column(soft, knots), voxel))]
    before = np.full(soft.x.shape, np.inf, np.float32)
    for name, knots in MUSCLES:
        belly = column(soft, knots) - np.float32(12 * (knee.muscle - 1))
        belly = both(both(belly, fascia + 1.5, 3), 1.2 - before)
        before = np.minimum(before, belly)
        yield [(name, "muscle", covered(belly, voxel))]


def _wrapping(fascia: np.ndarray, skin: np.ndarray, voxel: float) -> list[Layer]:
    dermis, outer, inner = covered(skin + 2, voxel), covered(fascia, voxel), covered(fascia + 0.7, voxel)
    fat = ("subcutaneous_fat", "fat", dermis - outer)
    return [("skin", "skin", 1 - dermis), fat, ("deep_fat", "tendon", outer - inner), ("deep_fat", "fat", inner)]


def layers(points_mm: np.ndarray, knee: Knee, spacing_mm: float) -> Iterator[list[Layer]]:
    """Groups of (part, tissue, fraction) at world points (3, ...) in mm for voxels of `spacing_mm`, inside out, but air first.

    Fractions have the shape (...) of the points, are 0 to 1, of what the groups before have left, and add up to at most 1 within
    a group; the last group takes all. Air is of part "".
    """
    voxel = spacing_mm / knee.size
    p = bones.tibia_frame(points_mm, knee)
    soft, turned = bones.bend(p, knee, ramp(p.z, -15, 45)), bones.bend(p, knee)
    height, *outlines = bones.plateau(p, knee)
    femur, tibia, fibula = bones.femur(turned, knee), bones.tibia(p, knee, height), bones.fibula(p)
    patella, facets = bones.patella(p, knee)
    tendons, cruciates = _tendons(p, knee), _cruciates(p, knee)
    fascia = _below_fascia(p, soft, (femur, tibia, fibula, patella))
    skin = fascia - _fat_mm(soft, knee)

    yield [("", "air", 1 - covered(skin, voxel))]
    femoral, tibial = _femoral_mm(turned, knee), _tibial_mm(p, knee, height, outlines)
    yield _shells("femur", femur, voxel, "femoral_cartilage", femoral, _scar(turned, 39.0, voxel))
    yield _shells("tibia", tibia, voxel, "tibial_cartilage", tibial, _scar(p, -17.0, voxel))
    yield _shells("patella", patella, voxel, "patellar_cartilage", _patellar_mm(p, knee, patella, facets))
    yield _shells("fibula", fibula, voxel)
    for name, shape in {**cruciates, **_collaterals(p, knee), **tendons}.items():
        yield [(name, "acl" if name.startswith("anterior") else "tendon", covered(shape, voxel))]
    for name, shape in _menisci(p, knee, height - tibial, outlines).items():
        yield [(name, "meniscus", covered(shape, voxel))]
    wet = union(_film(knee, femur - femoral, femoral, cruciates), _cleft(p, height, outlines))
    for shape in (wet, _recess(p, knee)):
        yield [("joint_fluid", "fluid", covered(shape, voxel))]
    hoffa = both(ellipsoid((p.x - 1, p.y - 25, p.z + 1), (24, 16, 20)), fascia + 1.5, 3)
    yield [("hoffa_fat_pad", "fat_pad", covered(hoffa, voxel))]
    yield from _soft_tissue(soft, knee, fascia, voxel)
    yield _wrapping(fascia, skin, voxel)
