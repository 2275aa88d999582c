"""Great vessels and airways of the embedded body, as tubes. Lengths in mm of the layout that body_person.py describes.

Rows of tables: points in the layout are (x, y, z, radius), x counted away from the median plane where there are two sides;
points along the spine are (level, right, anterior, radius), counted from its centre line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xdiff.data.body_person import Person, Spine
from xdiff.data.body_tissues import amounts
from xdiff.data.solids import Canvas, Solid, ball, blended, rod

ARCH = [(-6, 14, 384, 15), (16, 22, 412, 15), (14, 12, 438, 14), (0, -8, 452, 13)]
ARCH_END = [(446, -20, 30, 12), (420, -22, 24, 12)]
DESCENDING = [
    (426, -22, 24, 12),
    (380, -19, 26, 11.5),
    (330, -12, 28, 11),
    (270, -9, 28, 10),
    (200, -9, 29, 9.5),
    (142, -6, 28, 8.5),
]
LOWER_CAVA = [(138, 12, 28, 9.5), (200, 17, 29, 10.5), (270, 19, 33, 11), (315, 24, 44, 12)]
UPPER_CAVA = [(27, 12, 372, 11), (28, 4, 430, 10), (26, 0, 468, 10), (34, -4, 506, 7)]
CAROTID = [(12, 0, 456, 6), (22, -16, 520, 4.5), (26, -18, 600, 4), (30, -16, 720, 4)]
JUGULAR = [(24, 2, 490, 7), (34, -10, 540, 6.5), (36, -14, 620, 6), (36, -16, 720, 6)]
SUBCLAVIAN = [(22, -4, 500, 6), (80, -14, 506, 5), (150, -50, 458, 4)]
LEG_ARTERY = [
    (34, -16, 88, 6),
    (62, 22, 44, 6),
    (76, 52, 4, 6),
    (84, 46, -70, 5.5),
    (82, 18, -220, 4.5),
    (90, -14, -330, 4),
    (95, -26, -420, 4),
]
LEG_VEIN = [(25, -23, 88, 7), (53, 15, 44, 7), (67, 45, 4, 7), (75, 39, -70, 6), (75, 13, -220, 5.5), (83, -21, -330, 5)]
LUNG_ARTERIES = ([(62, -25, 400, 5), (84, -40, 368, 3)], [(66, -8, 432, 4), (80, 8, 462, 2)])
TRACHEA = [(-18, 418), (-24, 470), (-18, 520), (-4, 580), (-2, 720)]  # y, z; x as the spine's


def paint_vessels(canvas: Canvas, person: Person, parts: dict[str, int]) -> None:
    spine = person.spine
    arch = _tube(ARCH + [_beside(spine, row) for row in ARCH_END])
    aorta = blended([arch, _tube([_beside(spine, row) for row in DESCENDING])], 4)
    canvas.paint(aorta, amounts("blood"), parts["aorta"])
    lower = _tube([*(_beside(spine, row) for row in LOWER_CAVA), (26, 8, 348, 12)])
    for solid in (lower, _tube(UPPER_CAVA)):
        canvas.paint(solid, amounts("blood"), parts["vena cava"])
    for side in (-1, 1):
        bifurcation = _beside(spine, (142, side * 4, 28, 6.5))
        for table in (LEG_ARTERY, LEG_VEIN):
            canvas.paint(_tube([bifurcation, *_on(side, table)]), amounts("blood"), parts["vessel"])
        for table in (CAROTID, JUGULAR, SUBCLAVIAN):
            canvas.paint(_tube(_on(side, table)), amounts("blood"), parts["vessel"])


def paint_lung_vessels(canvas: Canvas, person: Person, cavity: Solid) -> None:
    hilum = (float(person.spine.x(np.float32(410))) / 2, -28.0, 412.0, 8.0)
    for side in (-1, 1):
        branches = [_tube([hilum, *_on(side, table)]) for table in LUNG_ARTERIES]
        canvas.paint(blended(branches, 6).within(cavity), amounts("blood"))


def paint_airways(canvas: Canvas, person: Person, parts: dict[str, int]) -> None:
    """Trachea with its wall, main bronchi, and the thyroid beside it."""
    centre = [(float(person.spine.x(np.float32(z))), y, z) for y, z in TRACHEA]
    canvas.paint(rod(centre, 11), amounts("cartilage"))
    canvas.paint(rod(centre, 8.5), amounts("air"), parts["airway"])
    for side in (-1, 1):
        bronchus = rod([centre[0], (centre[0][0] + side * 34, -24, 396)], (8, 6))
        canvas.paint(bronchus, amounts("air"), parts["airway"])
        canvas.paint(ball((side * 18, 0, 562), (10, 11, 22)), amounts("spleen"), parts["thyroid"])


def _tube(rows: Sequence[Sequence[float]]) -> Solid:
    return rod([tuple(row[:3]) for row in rows], [row[3] for row in rows])


def _beside(spine: Spine, row: Sequence[float]) -> tuple[float, ...]:
    return (*spine.at(*row[:3]), row[3])


def _on(side: int, table: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [(side * x, *rest) for x, *rest in table]
