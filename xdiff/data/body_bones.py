"""The skeleton of the embedded body: spine with discs and canal, ribs and sternum, pelvis and sacrum, limbs.

Bones are cortical shells round a marrow of water and fat. Lengths in mm of the layout that body_person.py describes.
"""

from __future__ import annotations

import numpy as np

from xdiff.data.body_person import C7_T1_MM, L5_S1_MM, T12_L1_MM, Person
from xdiff.data.body_surface import Surface
from xdiff.data.body_tissues import amounts
from xdiff.data.solids import Canvas, Solid, ball, blended, column, cutter, rod, superellipse

CERVICAL_MM, LUMBAR = 18.0, 5
# thoracic levels grow downwards from 20 mm to 27 mm: 12 of them
THORACIC_MM = np.linspace(20.0, 27.0, 12) * (C7_T1_MM - T12_L1_MM) / np.linspace(20.0, 27.0, 12).sum()
RIB_PITCH_MM, RIB_SLOPE = 25.0, 0.42


def disc_levels() -> np.ndarray:
    """z (n,) of the middle of every disc from C3/C4 to L5/S1 along the spine's centre line, upper ones first."""
    cervical = C7_T1_MM + CERVICAL_MM * np.arange(8, 0, -1)
    thoracic = C7_T1_MM - np.concatenate([[0], np.cumsum(THORACIC_MM)])
    lumbar = np.linspace(T12_L1_MM, L5_S1_MM, LUMBAR + 1)[1:]
    return np.concatenate([cervical, thoracic, lumbar])


def paint_bone(canvas: Canvas, solid: Solid, part: int, marrow_fat: float, cortex_mm: float = 2.0) -> None:
    canvas.paint(solid, amounts("cortical"), part)
    canvas.paint(solid.grown(-cortex_mm), amounts("marrow", marrow_fat), part)


# ---------------------------------------------------------------- spine


def paint_spine(canvas: Canvas, person: Person, vertebra: int, disc: int, canal: int) -> None:
    """Vertebral bodies with arches and processes, discs, and the canal with cord (to L1) and cerebrospinal fluid."""
    spine, levels = person.spine, disc_levels()
    low, high = (-62.0, -170.0, L5_S1_MM - 14), (62.0, 40.0, float(levels[0]))
    region = Solid(lambda x, y, z: z, low, high)
    box = canvas.block(region)
    if box is None:
        return
    level, right, front = spine.across(*canvas.place[(slice(None), *box)])
    a = np.interp(level, (98, 280, 430, 560, 700), (25, 21, 15.5, 13.5, 10)).astype(np.float32)
    b = np.interp(level, (98, 280, 430, 560, 700), (17.5, 16, 14.5, 9, 8)).astype(np.float32)
    radius = np.interp(level, (98, 280, 430, 560, 700), (11, 10, 8.5, 9, 9)).astype(np.float32)
    ends = np.maximum(levels[-1] - level, level - levels[0])
    thick = np.interp(level, (98, 280, 430, 560, 700), (10, 7, 4.5, 4.5, 4.5)).astype(np.float32)
    between, along = _nearest_disc(level, levels)
    body = np.maximum(superellipse(right, front, a, b, 2.4), ends)
    waist = np.minimum(1.8, 0.12 * between).astype(np.float32)  # bodies are narrower in the middle
    gap = thick / 2 - between

    def cover(distance: np.ndarray, tissue: str, fat: float, part: int) -> None:
        canvas.cover(distance, amounts(tissue, fat), part, box)

    back = front + b + radius
    arch = np.maximum(np.hypot(right, back) - radius - 5, np.abs(along) * 26 - 11)
    spinous = np.maximum(np.abs(right) - 3.5, np.abs(back + radius + 16 + 6 * along) - 15)
    spinous = np.maximum(spinous, np.abs(along + 0.1) * 26 - 8)
    transverse = np.maximum(np.abs(right) - a - 18, np.hypot(back - radius * 0.3, along * 26) - 5.5)
    processes = np.maximum(np.minimum(np.minimum(arch, spinous), transverse), ends)
    cover(processes, "cortical", 0, vertebra)
    cover(processes + 2, "marrow", person.marrow_fat + 0.15, vertebra)
    cover(body + waist - 0.5, "cortical", 0, vertebra)
    cover(np.maximum(body + waist + 1.2, gap + 1.2), "marrow", person.marrow_fat, vertebra)
    cover(np.maximum(body - 0.5, -gap), "disc", 0, disc)
    canal_distance = np.maximum(np.hypot(right, back * 1.15) - radius, ends)
    cover(canal_distance, "fat", 0, canal)
    cover(canal_distance + 2, "csf", 0, canal)
    cord = np.maximum(np.hypot(right / 1.2, back) - 5.0, T12_L1_MM - 30 - level)
    cover(np.maximum(cord, ends), "cord", 0, canal)


def _nearest_disc(level: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest disc's middle in mm, and place between two discs: -0.5 at the lower, 0.5 at the upper."""
    knots = levels[::-1]
    above = np.clip(np.searchsorted(knots, level), 1, len(knots) - 1)
    lower, upper = knots[above - 1], knots[above]
    distance = np.minimum(np.abs(level - lower), np.abs(upper - level))
    return distance.astype(np.float32), ((level - lower) / (upper - lower) - 0.5).astype(np.float32)


# ---------------------------------------------------------------- rib cage


def paint_rib_cage(canvas: Canvas, person: Person, surface: Surface, part: int) -> None:
    """Twelve pairs of ribs on the wall of the chest, the lower ones ending early, their cartilage, and the sternum."""
    spine, cavity = person.spine, surface.cavity

    def rib(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        height = z + RIB_SLOPE * (y + 105)  # ribs fall forwards
        order = np.clip((height - 292) / RIB_PITCH_MM, -0.5, 10.5)
        across = np.abs(order - np.round(order)) * RIB_PITCH_MM
        outside = np.maximum(292 - 10 - height, height - 292 - 10.45 * RIB_PITCH_MM)
        shell = cavity.distance(x, y, z) - 5.5
        return np.maximum(np.hypot(shell / 0.8, across) - 6.0, outside)

    low, high = cavity.low, cavity.high
    ribs = Solid(rib, (low[0] - 14, low[1] - 14, 180.0), (high[0] + 14, high[1] + 14, 575.0))
    sx = float(spine.x(np.float32(400))) / 2
    front = float(np.interp(400, (360, 420), (84, 74))) + 8
    gap = cutter(lambda x, y, z: np.abs(x - spine.x(z)) - 12)
    bony = cutter(lambda x, y, z: y - np.interp(z, (200, 250, 300, 420, 560), (-30, -5, 40, 62, 30)))
    arch = cutter(lambda x, y, z: 0.8 * (250 - z + 0.9 * np.maximum(y, 0)))  # the costal margin rises
    costal = ribs.without(bony, gap).within(arch)
    canvas.paint(costal, amounts("cartilage"), part)
    paint_bone(canvas, ribs.within(bony).without(gap), part, person.marrow_fat, 1.5)
    plate = ball((sx, front - 3, 392), (17, 6.5, 72), (-16, 0, 0))
    manubrium = ball((sx, front - 27, 468), (27, 7, 27), (-28, 0, 0))
    for bone in (plate, manubrium):
        paint_bone(canvas, bone, part, person.marrow_fat, 1.5)


# ---------------------------------------------------------------- pelvis and limbs


def ilium_shell(person: Person, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance (positive outside) from the bowl that the iliac wings are part of."""
    a = np.interp(z, (0, 30, 100, 160), (72, 84, 118, 136)).astype(np.float32) * np.float32(person.hips)
    return superellipse(x, y - 30, a, np.float32(118))


def paint_pelvis(canvas: Canvas, person: Person, part: int, sacrum: int) -> None:
    h = person.hips

    def wing(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        crest = 158 - 52 * ((y + 12) / 78) ** 2
        thick = np.interp(z, (0, 30, 80, 140, 160), (9, 8, 4.5, 5, 7)).astype(np.float32)
        shell = np.abs(ilium_shell(person, x, y, z)) - thick
        front = y - np.interp(z, (20, 60, 110), (36, 44, 60))
        notch = np.interp(z, (15, 40, 58), (-22, -38, -105)) - y  # the greater sciatic one
        ends = np.maximum(np.maximum(front, notch), 36 - np.abs(x))
        return np.maximum(np.maximum(shell, np.maximum(z - crest, 12 - z)), ends)

    ilium = Solid(wing, (-150 * h, -110, 10), (150 * h, 80, 165))
    paint_bone(canvas, ilium, part, person.marrow_fat + 0.1, 1.5)
    for s in (-1, 1):
        socket = ball((s * 84 * h, 1, 6), (36, 37, 36)).without(ball((s * 92 * h, 2, -2), (28.5, 28.5, 28.5)))
        cut = cutter(lambda x, y, z, s=s: s * x - 100 * h - 0.5 * z)
        ischium = rod([(s * 74 * h, -24, -4), (s * 68 * h, -42, -40), (s * 60 * h, -38, -66)], (17, 14, 16))
        pubis = rod([(s * 72 * h, 20, 6), (s * 44, 46, -4), (s * 14, 52, -22)], (12, 8.5, 10))
        ramus = rod([(s * 12, 50, -28), (s * 34, 22, -50), (s * 57 * h, -26, -66)], (8, 6.5, 9))
        bone = blended([socket.within(cut), ischium, pubis, ramus], 8).without(ball((s * 90 * h, 2, -2), (28, 28, 28)))
        paint_bone(canvas, bone, part, person.marrow_fat + 0.15)
    spine = person.spine
    z = np.array((-40, -15, 20, 60, L5_S1_MM + 6))
    x, y = spine.x(np.float32(z)), spine.y(np.float32(z))
    tail = column(z, x, y - np.array((0, 0, 2, 4, 8)), (7, 12, 30, 46, 50), (5, 8, 11, 15, 20), 2.2)
    top = cutter(lambda x, y, z: spine.across(x, y, z)[0] - (L5_S1_MM - 6))
    paint_bone(canvas, tail.within(top), sacrum, person.marrow_fat + 0.05)


# z, x, y, half widths of the bone, half widths of its marrow: walls of shafts are thick, ends are thin shells
FEMUR = np.array(
    [
        (-36, 131, -10, 16, 16, 13, 13),
        (-70, 127, -6, 16, 16, 10, 10),
        (-150, 119, 6, 14, 14.5, 7.5, 8),
        (-260, 107, 10, 14, 15, 8, 8.5),
        (-350, 99, 3, 19, 19, 14, 15),
        (-390, 96, -2, 30, 27, 28, 25),
        (-412, 95, -8, 37, 31, 35, 29),
        (-428, 95, -12, 33, 28, 31, 26),
    ]
)
# z, outwards of the knee, y, half widths
TIBIA = np.array(
    [(-436, 0, -8, 37, 26), (-455, 0, -8, 34, 24), (-480, 0, -8, 20, 18), (-540, 1, -6, 13, 15), (-700, 2, -8, 12, 13)]
)
FIBULA = np.array([(-452, 38, -22, 9, 9), (-470, 36, -22, 7, 7), (-700, 30, -18, 7, 7)])
# z, x without what the person's girth adds, y, half widths
HUMERUS = np.array(
    [
        (440, 176, -36, 16, 15),
        (400, 196, -34, 11.5, 11.5),
        (300, 212, -35, 11, 11),
        (215, 225, -38, 20, 12),
        (190, 228, -38, 24, 12),
    ]
)
CLAVICLE = [(26, 28, 496), (70, 14, 512), (112, -22, 518), (148, -38, 514)]
YELLOW = 0.9  # fat in the marrow of limbs


def paint_femurs(canvas: Canvas, person: Person, part: int) -> None:
    """Femurs down to the condyles; below them tibiae (the field of view of short people reaches there) and patellae."""
    for side in (-1, 1):
        _paint_femur(canvas, side, person.hips, part)
        knee = side * (95 + 60 * (person.hips - 1))
        for table in (TIBIA, FIBULA):
            z, out, y, half, deep = table.T
            bone = column(z, knee + side * out, y, half, deep, 2.4)
            paint_bone(canvas, bone, part, YELLOW, 2.5)
        paint_bone(canvas, ball((knee, 38, -396), (21, 10, 22)), part, YELLOW, 1.5)


def _paint_femur(canvas: Canvas, side: int, hips: float, part: int) -> None:
    head = ball((side * 90 * hips, 2, -2), (24.5, 24.5, 24.5))
    neck = rod([(side * 92 * hips, 1, -5), (side * 126 * hips, -8, -34)], (16, 17))
    trochanter = ball((side * 136 * hips, -16, -26), (16, 20, 24))
    z, x, y, half, deep, marrow_half, marrow_deep = FEMUR.T
    x = side * (x + np.interp(z, (-400, -36), (60, 130)) * (hips - 1))
    shaft = column(z, x, y, half, deep, 2.2)
    cavity = column(z, x, y, marrow_half, marrow_deep, 2.2)
    cartilage = shaft.grown(2.2).within(cutter(lambda x, y, z: z + 384))
    canvas.paint(cartilage, amounts("cartilage"), part)
    canvas.paint(blended([head, neck, trochanter, shaft], 10), amounts("cortical"), part)
    marrow = blended([*(solid.grown(-1.8) for solid in (head, neck, trochanter)), cavity], 10)
    canvas.paint(marrow, amounts("marrow", YELLOW), part)


def paint_arms(canvas: Canvas, person: Person, surface: Surface, part: int) -> None:
    """Clavicles, shoulder blades, humeri and forearms."""
    wide, out = person.shoulders, surface.arms_out_mm
    for side in (-1, 1):
        head = ball((side * (160 * wide + 0.3 * out), -34, 482), (24, 24, 24))
        z, x, y, half, deep = HUMERUS.T
        humerus = column(
            (478, *z), (side * (164 * wide + 0.3 * out), *(side * (x * wide + out))), (-36, *y), (24, *half), (22, *deep)
        )
        clavicle = rod([(side * (x if x < 30 else x * wide), y, z) for x, y, z in CLAVICLE], 6.5)
        blade = ball((side * 100 * wide, -112, 430), (44, 4.5, 72), (0, 0, side * 24))
        ridge = rod([(side * 66 * wide, -116, 470), (side * 118 * wide, -96, 500), (side * 156 * wide, -56, 512)], 7)
        glenoid = rod([(side * 110 * wide, -92, 462), (side * 138 * wide, -52, 480)], (8, 13))
        bones = [blended([head, humerus], 8), clavicle, blended([blade, ridge, glenoid], 6)]
        for elbow, wrist in ((221, 240), (237, 258)):
            bones.append(rod([(side * (elbow * wide + out), -36, 182), (side * (wrist * wide + out), -16, -50)], 8.5))
        for bone in bones:
            paint_bone(canvas, bone, part, 0.75, 1.8)
