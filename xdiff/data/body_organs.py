"""The organs of the embedded body, placed in its cavity and along its spine.

Lengths in mm of the layout that body_person.py describes; x > 0 is the patient's right: the liver's side.
"""

from __future__ import annotations

import numpy as np

from xdiff.data.body_person import Person
from xdiff.data.body_surface import Surface
from xdiff.data.body_tissues import amounts
from xdiff.data.body_vessels import paint_airways, paint_lung_vessels, paint_vessels
from xdiff.data.solids import Canvas, Solid, ball, blended, column, cutter, rod

# z, left of the spine's half way, y, half widths (x, y)
MEDIASTINUM = np.array(
    [
        (250, 6, -10, 34, 110),
        (340, 6, -10, 33, 92),
        (400, 5, -14, 30, 82),
        (450, 2, -20, 28, 70),
        (500, 0, -30, 26, 60),
        (570, 0, -40, 22, 55),
    ]
)
# centre, radii, turn in degrees
CHAMBERS = {
    "left ventricle": ((-52, 22, 342), (37, 22, 25), (0, -28, 34)),
    "right ventricle": ((-22, 50, 346), (42, 15, 30), (0, -24, 22)),
    "right atrium": ((24, 14, 362), (20, 24, 28)),
    "left atrium": ((-6, -12, 378), (28, 17, 21)),
}
# points, and radii; the liver moves with the diaphragm
LIVER_VESSELS = (
    ([(28, -2, 322), (70, 6, 306), (104, 10, 282)], (6, 4, 2)),
    ([(20, 8, 262), (56, 8, 280), (88, -24, 286)], (7, 5, 2.5)),
    ([(28, 0, 322), (76, -36, 300)], (5, 2.5)),
)


def diaphragm(person: Person, surface: Surface) -> Solid:
    """Inside is what lies below the two domes; it falls off towards the wall, most at the back."""
    top = 348 + person.diaphragm_mm

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        right = top - 46 * ((x - 68) / 62) ** 2 - 60 * ((y - 2) / 92) ** 2
        left = top - 14 - 46 * ((x + 68) / 62) ** 2 - 60 * ((y - 2) / 92) ** 2
        dome = np.maximum(np.maximum(right, left), top - 30 - 50 * ((y - 16) / 92) ** 2)
        wall = np.clip(surface.cavity.distance(x, y, z) + 24, 0, None)  # the costophrenic angle
        return np.float32(0.75) * (z - dome + 2.2 * wall * (y < 40))

    return cutter(distance)


def paint_chest(canvas: Canvas, person: Person, surface: Surface, domes: Solid, parts: dict[str, int]) -> None:
    """Lungs, and between them fat, heart, great vessels and trachea."""
    cavity, spine = surface.cavity, person.spine
    canvas.paint(cavity, amounts("fat"), parts["mediastinal fat"])
    canvas.paint(cavity.within(domes.grown(1.5)), amounts("muscle"), parts["muscle"])  # the diaphragm
    canvas.paint(cavity.within(domes.grown(-1.5)), amounts("fat"), parts["visceral fat"])
    z, left, y, half, deep = MEDIASTINUM.T
    middle = column(z, spine.x(np.float32(z)) / 2 - left, y, half, deep)
    heart = ball((-30, 22, 352), (66, 46, 50), (0, -28, 32))
    lung = cavity.grown(-3).without(domes.grown(2), blended([middle, heart.grown(7)], 20))
    canvas.paint(lung, amounts("lung"), parts["lung"])
    paint_lung_vessels(canvas, person, cavity)
    canvas.paint(heart, amounts("heart"), parts["heart"])
    for chamber in CHAMBERS.values():
        canvas.paint(ball(*chamber).within(heart.grown(-3)), amounts("blood"), parts["heart"])
    paint_vessels(canvas, person, parts)
    paint_airways(canvas, person, parts)


def paint_abdomen(
    canvas: Canvas, person: Person, surface: Surface, domes: Solid, folds: np.ndarray, parts: dict[str, int]
) -> None:
    """Organs below the diaphragm and in the pelvis. `folds` (X, Y, Z): a noise field whose zero set the loops of bowel follow."""
    room = surface.cavity.grown(-3).within(domes.grown(-1.5))
    down = person.diaphragm_mm
    _paint_bowel(canvas, person, room, folds, parts)
    _paint_stomach(canvas, person, room, parts)
    canvas.paint(ball((-90, -50, 266 + 0.6 * down), (36, 47, 60), (18, 8, 0)).within(room), amounts("spleen"), parts["spleen"])
    _paint_liver(canvas, person, room, parts)
    at = person.spine.at
    pancreas = rod([at(232, 34, 52), at(250, 0, 58), at(266, -44, 46), (-88, -20, 282)], (13, 10, 10, 7))
    canvas.paint(pancreas.within(room), amounts("pancreas", 0.15), parts["pancreas"])
    _paint_kidneys(canvas, person, down, parts)
    _paint_pelvic_organs(canvas, person, parts)


def _paint_stomach(canvas: Canvas, person: Person, room: Solid, parts: dict[str, int]) -> None:
    """Wall, content, and gas in front of it: the person lies on the back."""
    front = 0.3 * person.belly_mm
    fundus = ball((-62, 2, 298 + person.diaphragm_mm), (34, 44, 42))
    stomach = blended([fundus, ball((-40, 44 + front, 250), (44, 26, 28), (0, 35, 0))], 25)
    inside = stomach.grown(-5).within(room)
    canvas.paint(stomach.within(room), amounts("bowel"), parts["stomach"])
    canvas.paint(inside, amounts("content"), parts["stomach"])
    canvas.paint(inside.within(cutter(lambda x, y, z: np.float32(38 + front) - y)), amounts("air"), parts["stomach"])


def _paint_liver(canvas: Canvas, person: Person, room: Solid, parts: dict[str, int]) -> None:
    down = person.diaphragm_mm
    lobes = [ball((76, -2, 268 + down), (78, 92, 90)), ball((-8, 38, 306 + down), (72, 44, 36), (0, 14, 0))]
    fossa = ball((30, -10, 210 + down), (52, 60, 44), (0, -20, 0))
    kidney_bed = ball(person.spine.at(222, 62, 4), (34, 32, 50))
    liver = blended(lobes, 24).within(room).without(fossa, kidney_bed)
    canvas.paint(liver, amounts("liver", person.liver_fat), parts["liver"])
    veins = [rod([(x, y, z + down) for x, y, z in points], radii) for points, radii in LIVER_VESSELS]
    canvas.paint(blended(veins, 4).within(liver), amounts("blood"))
    canvas.paint(ball((44, 52, 226 + down), (14, 14, 27), (15, 0, 0)).within(room), amounts("urine"), parts["gallbladder"])


def _paint_kidneys(canvas: Canvas, person: Person, down: float, parts: dict[str, int]) -> None:
    for s, level in ((1, 214), (-1, 226)):
        x, y, z = person.spine.at(level + 0.7 * down, s * 62, 2)
        turn = (8.0, s * 12.0, s * -25.0)
        hilum = ball((x - s * 22, y + 8, z), (18, 15, 20))
        kidney = ball((x, y, z), (29, 24, 54), turn)
        canvas.paint(kidney.without(hilum), amounts("kidney"), parts["kidney"])
        canvas.paint(ball((x, y, z), (20, 15, 42), turn).without(hilum), amounts("medulla"), parts["kidney"])
        canvas.paint(ball((x - s * 8, y + 4, z), (11, 9, 26), turn), amounts("fat"), parts["visceral fat"])
        renal = rod([(x - s * 14, y + 5, z), person.spine.at(level + 10, s * 12, 28)], 4)
        canvas.paint(renal, amounts("blood"), parts["vessel"])


def _paint_bowel(canvas: Canvas, person: Person, room: Solid, folds: np.ndarray, parts: dict[str, int]) -> None:
    """Small bowel as a labyrinth round the zero set of a noise field, less of it where there is more fat; the colon round it."""
    belly = person.belly_mm
    mesentery = blended([ball((0, 28 + 0.65 * belly, 132), (86, 46, 82)), ball((0, 26, 40), (56, 38, 44))], 30)
    within = mesentery.within(room.grown(-4))
    block = canvas.block(mesentery)
    if block is not None:
        inside = within.distance(*canvas.place[(slice(None), *block)])
        loops = (np.abs(folds[block]) - np.float32(0.78 - 0.008 * belly)) * 12  # mm per unit: what the field rises by, about
        for grown, tissue in ((0.0, "bowel"), (4.0, "content")):
            canvas.cover(np.maximum(loops + grown, inside), amounts(tissue), parts["bowel"], block)
    y = 30 + 0.7 * belly
    colon = {
        "ascending": [(86, -6, 84), (94, -10, 130), (94, -16, 176), (86, 0, 208)],
        "transverse": [(86, 0, 208), (52, y + 16, 204), (0, y + 22, 192), (-50, y + 16, 212), (-92, -8, 246)],
        "descending": [(-92, -8, 246), (-98, -28, 190), (-96, -22, 130), (-84, 4, 84), (-50, 4, 60), (-20, -34, 66)],
    }
    for name, points in colon.items():
        wide = 17 if name == "descending" else 24
        tube = rod(points, wide)
        pouched = Solid(lambda x, y, z, t=tube: t.distance(x, y, z) + 2.5 * np.cos((x + y + z) / 6), tube.low, tube.high)
        wall = pouched.grown(2.5).within(room)
        canvas.paint(wall, amounts("bowel"), parts["bowel"])
        canvas.paint(wall.grown(-4), amounts("content", 0.1), parts["bowel"])
        gas = rod([(px, py + 9, pz) for px, py, pz in points], wide * 0.55)
        if name != "descending":
            canvas.paint(gas.within(wall.grown(-4)), amounts("air"), parts["bowel"])


def _paint_pelvic_organs(canvas: Canvas, person: Person, parts: dict[str, int]) -> None:
    spine = person.spine
    z = np.array((-40, 0, 40, 70))
    back = spine.y(np.float32(z)) + (16, 26, 28, 34)
    rectum = column(z, (0, 0, 0, -8), back, (11, 17, 17, 14), (11, 14, 14, 13))
    canvas.paint(rectum, amounts("bowel"), parts["bowel"])
    canvas.paint(rectum.grown(-4), amounts("content"), parts["bowel"])
    bladder = ball((0, 26, 2), tuple(person.bladder * v for v in (37, 27, 29)))
    canvas.paint(bladder.grown(3), amounts("muscle"), parts["bladder"])
    canvas.paint(bladder, amounts("urine"), parts["bladder"])
    if person.female:
        canvas.paint(ball((4, -14, 34), (24, 19, 33), (-35, 0, 0)), amounts("uterus"), parts["uterus or prostate"])
    else:
        canvas.paint(ball((0, 14, -36), (22, 17, 18)), amounts("uterus"), parts["uterus or prostate"])
