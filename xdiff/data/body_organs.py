"""The organs of the embedded body, placed in its cavity and along its spine.

Lengths in mm of the layout that body_person.py describes; x > 0 is the patient's right: the liver's side.
"""

from __future__ import annotations

import numpy as np

from xdiff.data.body_person import Person
from xdiff.data.body_surface import Surface
from xdiff.data.body_tissues import amounts
from xdiff.data.solids import NOWHERE, Canvas, Solid, ball, blended, column, rod


def diaphragm(person: Person, surface: Surface) -> Solid:
    """Inside is what lies below the two domes; it falls off towards the wall, most at the back."""
    top = 348 + person.diaphragm_mm

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        right = top - 46 * ((x - 68) / 62) ** 2 - 60 * ((y - 2) / 92) ** 2
        left = top - 14 - 46 * ((x + 68) / 62) ** 2 - 60 * ((y - 2) / 92) ** 2
        dome = np.maximum(np.maximum(right, left), top - 30 - 50 * ((y - 16) / 92) ** 2)
        wall = np.clip(surface.cavity.distance(x, y, z) + 24, 0, None)  # the costophrenic angle
        return np.float32(0.75) * (z - dome + 2.2 * wall * (y < 40))

    return Solid(distance, NOWHERE, NOWHERE)


def paint_chest(canvas: Canvas, person: Person, surface: Surface, domes: Solid, parts: dict[str, int]) -> None:
    """Lungs, and between them fat, heart, great vessels and trachea."""
    cavity, spine = surface.cavity, person.spine
    canvas.paint(cavity, amounts("fat"), parts["mediastinal fat"])
    canvas.paint(cavity.within(domes.grown(1.5)), amounts("muscle"), parts["muscle"])  # the diaphragm
    canvas.paint(cavity.within(domes.grown(-1.5)), amounts("fat"), parts["visceral fat"])
    z = (250, 340, 400, 450, 500, 570)
    shift = spine.x(np.float32(z)) / 2
    middle = column(z, shift - (6, 6, 5, 2, 0, 0), (-10, -10, -14, -20, -30, -40), (34, 33, 30, 28, 26, 22), (110, 92, 82, 70, 60, 55))
    heart = ball((-30, 22, 352), (66, 46, 50), (0, -28, 32))
    lung = cavity.grown(-3).without(domes.grown(2), blended([middle, heart.grown(7)], 20))
    canvas.paint(lung, amounts("lung"), parts["lung"])
    hilum = (spine.x(np.float32(410)) / 2, -28.0, 412.0)
    for s in (-1, 1):
        branches = [rod([hilum, (s * 62, -25, 400), (s * 84, -40, 368)], (8, 5, 3)), rod([hilum, (s * 66, -8, 432), (s * 80, 8, 462)], (7, 4, 2))]  # fmt: skip
        canvas.paint(blended(branches, 6).within(cavity), amounts("blood"))
    canvas.paint(heart, amounts("heart"), parts["heart"])
    chambers = {
        "left ventricle": ball((-52, 22, 342), (37, 22, 25), (0, -28, 34)),
        "right ventricle": ball((-22, 50, 346), (42, 15, 30), (0, -24, 22)),
        "right atrium": ball((24, 14, 362), (20, 24, 28)),
        "left atrium": ball((-6, -12, 378), (28, 17, 21)),
    }
    canvas.paint_all({name: s.within(heart.grown(-3)) for name, s in chambers.items()}, amounts("blood"), parts["heart"])
    _paint_great_vessels(canvas, person, parts)


def _paint_great_vessels(canvas: Canvas, person: Person, parts: dict[str, int]) -> None:
    at = person.spine.at
    arch = rod([(-6, 14, 384), (16, 22, 412), (14, 12, 438), (0, -8, 452), at(446, -20, 30), at(420, -22, 24)], (15, 15, 14, 13, 12, 12))
    descending = rod([at(z, dx, dy) for z, dx, dy in ((426, -22, 24), (380, -19, 26), (330, -12, 28), (270, -9, 28), (200, -9, 29), (142, -6, 28))], (12, 11.5, 11, 10, 9.5, 8.5))  # fmt: skip
    canvas.paint(blended([arch, descending], 4), amounts("blood"), parts["aorta"])
    cava = [at(z, dx, dy) for z, dx, dy in ((138, 12, 28), (200, 17, 29), (270, 19, 33), (315, 24, 44))]
    lower = rod([*cava, (26, 8, 348)], (9.5, 10.5, 11, 12, 12))
    upper = rod([(27, 12, 372), (28, 4, 430), (26, 0, 468), (34, -4, 506)], (11, 10, 10, 7))
    canvas.paint_all({"lower": lower, "upper": upper}, amounts("blood"), parts["vena cava"])
    neck = {}
    for s in (-1, 1):
        neck[f"carotid {s}"] = rod([(s * 12, 0, 456), (s * 22, -16, 520), (s * 26, -18, 600), (s * 30, -16, 700)], (6, 4.5, 4, 4))
        neck[f"jugular {s}"] = rod([(s * 24, 2, 490), (s * 34, -10, 540), (s * 36, -14, 620), (s * 36, -16, 700)], (7, 6.5, 6, 6))
        neck[f"subclavian {s}"] = rod([(s * 22, -4, 500), (s * 80, -14, 506), (s * 150, -50, 458)], (6, 5, 4))
        iliac = [person.spine.at(142, s * 4, 28), (s * 34, -16, 88), (s * 62, 22, 44), (s * 76, 52, 4), (s * 84, 46, -70)]
        neck[f"iliac {s}"] = rod([*iliac, (s * 82, 18, -220), (s * 90, -14, -330), (s * 95, -26, -420)], (6.5, 6, 6, 6, 5.5, 4.5, 4, 4))
        vein = [(x - s * 9, y - 7, z) for x, y, z in (*iliac, (s * 84, 20, -220), (s * 92, -14, -330))]
        neck[f"vein {s}"] = rod(vein, (7, 7, 7, 7, 6, 5.5, 5))
    canvas.paint_all(neck, amounts("blood"), parts["vessel"])
    at_neck = [(float(person.spine.x(np.float32(z))), y, z) for y, z in ((-18, 418), (-24, 470), (-18, 520), (-4, 580), (-2, 720))]
    canvas.paint(rod(at_neck, 11), amounts("cartilage"))
    canvas.paint(rod(at_neck, 8.5), amounts("air"), parts["airway"])
    for s in (-1, 1):
        bronchus = rod([at_neck[0], (at_neck[0][0] + s * 34, -24, 396)], (8, 6))
        canvas.paint(bronchus, amounts("air"), parts["airway"])
        canvas.paint(ball((s * 18, 0, 562), (10, 11, 22)), amounts("spleen"), parts["thyroid"])


def paint_abdomen(
    canvas: Canvas, person: Person, surface: Surface, domes: Solid, folds: np.ndarray, parts: dict[str, int]
) -> None:
    """Organs below the diaphragm and in the pelvis. `folds` (X, Y, Z): a noise field whose zero set the loops of bowel follow."""
    room = surface.cavity.grown(-3).within(domes.grown(-1.5))
    at, belly = person.spine.at, person.belly_mm
    down = person.diaphragm_mm
    _paint_bowel(canvas, person, room, folds, parts)
    stomach = blended([ball((-62, 2, 298 + down), (34, 44, 42)), ball((-40, 44 + 0.3 * belly, 250), (44, 26, 28), (0, 35, 0))], 25)
    canvas.paint(stomach.within(room), amounts("bowel"), parts["stomach"])
    canvas.paint(stomach.grown(-5).within(room), amounts("content"), parts["stomach"])
    gas = Solid(lambda x, y, z: np.float32(38 + 0.3 * belly) - y, NOWHERE, NOWHERE)
    canvas.paint(stomach.grown(-5).within(room, gas), amounts("air"), parts["stomach"])
    canvas.paint(ball((-104, -48, 288 + 0.6 * down), (27, 42, 54), (18, 8, 0)).within(room), amounts("spleen"), parts["spleen"])
    lobes = [ball((76, -2, 268 + down), (78, 92, 90)), ball((-8, 38, 306 + down), (72, 44, 36), (0, 14, 0))]
    fossa = ball((30, -10, 210 + down), (52, 60, 44), (0, -20, 0))
    kidney_bed = ball(at(222, 62, 4), (34, 32, 50))
    liver = blended(lobes, 24).within(room).without(fossa, kidney_bed)
    canvas.paint(liver, amounts("liver", person.liver_fat), parts["liver"])
    veins = [rod([(28, -2, 322 + down), (70, 6, 306 + down), (104, 10, 282 + down)], (6, 4, 2)), rod([(20, 8, 262 + down), (56, 8, 280 + down), (88, -24, 286 + down)], (7, 5, 2.5)), rod([(28, 0, 322 + down), (76, -36, 300 + down)], (5, 2.5))]  # fmt: skip
    canvas.paint(blended(veins, 4).within(liver), amounts("blood"))
    canvas.paint(ball((44, 52, 226 + down), (14, 14, 27), (15, 0, 0)).within(room), amounts("urine"), parts["gallbladder"])
    pancreas = rod([at(232, 34, 52), at(250, 0, 58), at(266, -44, 46), (-88, -20, 282)], (13, 10, 10, 7))
    canvas.paint(pancreas.within(room), amounts("pancreas", 0.15), parts["pancreas"])
    _paint_kidneys(canvas, person, down, parts)
    _paint_pelvic_organs(canvas, person, parts)


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
    """Small bowel as a labyrinth around the zero set of a noise field, fewer loops where there is more fat; the colon round it."""
    belly = person.belly_mm
    mesentery = blended([ball((0, 28 + 0.65 * belly, 132), (86, 46, 82)), ball((0, 26, 40), (56, 38, 44))], 30)
    within = mesentery.within(room.grown(-4))
    block = canvas.block(mesentery)
    if block is not None:
        inside = within.distance(*canvas.place[(slice(None), *block)])
        loops = (np.abs(folds[block]) - np.float32(0.78 - 0.008 * belly)) * 12  # mm per unit: what the field rises by, about
        for grown, tissue in ((0.0, "bowel"), (4.0, "content")):
            share = np.clip(0.5 - np.maximum(loops + grown, inside) / np.float32(canvas.voxel_mm), 0, 1)
            canvas.blend(block, share, amounts(tissue), parts["bowel"])
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
    full = 0.75 + 1.7 * person.liver_fat % 0.5  # any number that differs between people
    bladder = ball((0, 26, 2), (37 * full, 27 * full, 29 * full))
    canvas.paint(bladder.grown(3), amounts("muscle"), parts["bladder"])
    canvas.paint(bladder, amounts("urine"), parts["bladder"])
    if person.female:
        canvas.paint(ball((4, -14, 34), (24, 19, 33), (-35, 0, 0)), amounts("uterus"), parts["genital"])
    else:
        canvas.paint(ball((0, 14, -36), (22, 17, 18)), amounts("uterus"), parts["genital"])
