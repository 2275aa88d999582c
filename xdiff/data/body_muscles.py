"""The muscles of the embedded body that fat shows the borders of: of back, loin and buttock, of the thighs, inside the pelvis.

Lengths in mm of the layout that body_person.py describes; rows of tables run along the muscle.
"""

from __future__ import annotations

import numpy as np

from xdiff.data.body_bones import ilium_shell
from xdiff.data.body_person import Person
from xdiff.data.body_surface import Surface
from xdiff.data.body_tissues import amounts
from xdiff.data.solids import Canvas, Profile, Solid, ball, column, cutter, rod

# z, outwards and behind the spine's centre line, half widths (x, y)
ERECTOR = np.array(
    [
        (60, 22, -24, 8, 6),
        (98, 30, -30, 24, 16),
        (150, 34, -40, 30, 23),
        (220, 34, -42, 31, 24),
        (280, 32, -36, 28, 21),
        (360, 28, -28, 23, 17),
        (430, 26, -28, 20, 14),
        (500, 24, -26, 18, 12),
        (560, 20, -22, 13, 10),
        (600, 18, -22, 2, 2),
    ]
)
# z, outwards from the spine's centre line, radius; then to the lesser trochanter: x, y, z, radius
PSOAS = np.array([(285, 26, 6), (240, 34, 14), (190, 42, 20), (140, 48, 24), (98, 52, 24)])
PSOAS_END = np.array([(66, -2, 60, 22), (80, 26, 14, 17), (96, 14, -30, 14), (116, -8, -58, 8)])
# the line that THIGH counts from: z, distance from the median plane
THIGH_LINE = np.array([(60, 92), (0, 98), (-100, 104), (-250, 102), (-440, 96)])
# z, outwards and forwards of that line, half widths (x, y); later ones lie over earlier ones
THIGH = {
    "vastus lateralis": (
        (-50, 24, 14, 10, 16),
        (-150, 18, 14, 34, 40),
        (-280, 14, 14, 33, 36),
        (-380, 14, 10, 20, 20),
        (-410, 16, 12, 6, 6),
    ),
    "vastus medialis": (
        (-90, -12, 20, 8, 8),
        (-180, -12, 26, 22, 20),
        (-280, -18, 26, 27, 22),
        (-370, -20, 20, 26, 20),
        (-415, -22, 16, 8, 8),
    ),
    "rectus femoris": (
        (40, 4, 34, 10, 10),
        (-30, -8, 44, 16, 14),
        (-150, 0, 54, 21, 14),
        (-260, -2, 48, 17, 13),
        (-350, -2, 38, 8, 5),
    ),
    "sartorius": (
        (60, -4, 48, 9, 8),
        (-40, -24, 46, 12, 8),
        (-160, -42, 38, 12, 8),
        (-280, -56, 14, 11, 10),
        (-400, -50, -16, 9, 12),
    ),
    "adductors": (
        (-10, -40, 10, 12, 14),
        (-60, -40, -2, 32, 34),
        (-150, -46, -8, 35, 34),
        (-240, -40, -8, 26, 24),
        (-320, -34, -10, 6, 6),
    ),
    "gracilis": (
        (-30, -62, 10, 6, 14),
        (-120, -72, -6, 8, 22),
        (-240, -62, -22, 9, 18),
        (-400, -44, -30, 6, 8),
    ),
    "biceps femoris": (
        (-60, -4, -44, 12, 10),
        (-140, 6, -50, 22, 22),
        (-260, 14, -44, 25, 25),
        (-380, 24, -38, 17, 19),
        (-430, 28, -34, 8, 8),
    ),
    "semitendinosus": (
        (-60, -22, -48, 12, 10),
        (-140, -28, -54, 21, 19),
        (-260, -30, -48, 25, 22),
        (-380, -26, -40, 20, 17),
        (-430, -30, -30, 8, 8),
    ),
}
COAT_MM, TENDON_MM = 1.4, 16.0


def paint_muscles(canvas: Canvas, person: Person, surface: Surface, parts: dict[str, int]) -> None:
    muscle, fat = parts["muscle"], parts["intermuscular fat"]
    for side in (-1, 1):
        _paint_thigh(canvas, person, surface, side, muscle, fat)
        _paint_loin(canvas, person, side, muscle, fat)
    iliacus = Solid(
        lambda x, y, z: np.maximum(np.abs(ilium_shell(person, x, y, z) + 11) - 6.5, np.maximum(np.abs(z - 92) - 52, y - 44)),
        (-140, -70, 38),
        (140, 46, 146),
    )
    canvas.paint(iliacus.within(cutter(lambda x, y, z: 52 - np.abs(x))), amounts("muscle"), muscle)
    _paint_septa(canvas, person, surface, fat)


def _paint_loin(canvas: Canvas, person: Person, side: int, part: int, fat: int) -> None:
    """Erector spinae in its compartment, psoas down to the femur, quadratus lumborum."""
    m, spine = person.muscle, person.spine
    z, out, behind, half, deep = ERECTOR.T
    x, y = spine.x(np.float32(z)) + side * out, spine.y(np.float32(z)) + behind
    erector = column(z, x, y, m * half, m * deep, 2.3)
    canvas.paint(erector.grown(2.2), amounts("fat"), fat)
    canvas.paint(erector, amounts("muscle"), part)
    upper = [spine.at(level, side * out) for level, out, _ in PSOAS]
    lower = [(side * x, y, z) for x, y, z, _ in PSOAS_END]
    psoas = rod([*upper, *lower], m * np.concatenate([PSOAS[:, 2], PSOAS_END[:, 3]]))
    canvas.paint(psoas, amounts("muscle"), part)
    canvas.paint(ball(spine.at(170, side * 74, -16), (26 * m, 12 * m, 62)), amounts("muscle"), part)


def _paint_septa(canvas: Canvas, person: Person, surface: Surface, part: int) -> None:
    """Fat between gluteal muscles, between ribs and the muscles outside them, and in the middle of the abdominal wall."""
    cavity, lean, spine = surface.cavity, surface.lean.grown(-5), person.spine

    def outside_ribs(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.maximum(np.abs(cavity.distance(x, y, z) - 13) - 1.1, np.maximum(300 - z - 0.5 * y, z - 490))

    def gluteal(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        layer = np.abs(ilium_shell(person, x, y, z) - 30 - 0.1 * (z - 60)) - 1.8
        return np.maximum(np.maximum(layer, 40 - np.abs(x)), np.maximum(y - 10, np.abs(z - 60) - 80))

    def alba(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.maximum(np.abs(x - spine.x(z) / 2) - 3.5, 30 - y)

    chest = Solid(outside_ribs, (cavity.low[0] - 16, cavity.low[1] - 16, 240), (cavity.high[0] + 16, cavity.high[1] + 16, 540))
    canvas.paint(chest.within(surface.lean.grown(-2)), amounts("fat"), part)
    canvas.paint(Solid(gluteal, (-190, -130, -20), (190, 12, 140)).within(lean), amounts("fat"), part)
    linea = Solid(alba, (-40, 30, 20), (40, 160, 380))
    canvas.paint(linea.within(surface.lean).without(cavity), amounts("fat"), part)


def _paint_thigh(canvas: Canvas, person: Person, surface: Surface, side: int, part: int, fat: int) -> None:
    """Every muscle in a thin coat of fat: what the next ones leave of it are the septa between them."""
    thigh, m = surface.thigh(side).grown(-1.5), person.muscle
    line = Profile(THIGH_LINE[:, 0], side * (THIGH_LINE[:, 1] + 60 * (person.hips - 1)))
    knee = column((-350, -400, -425, -450, -490), line, (0, 0, 0, -2, -4), (2, 42, 47, 45, 2), (2, 44, 50, 44, 2))
    canvas.paint(knee.within(thigh), amounts("fat"), fat)
    for rows in THIGH.values():
        first, *_, last = rows
        rows = [(first[0] + TENDON_MM, *first[1:3], 1, 1), *rows, (last[0] - TENDON_MM, *last[1:3], 1, 1)]
        z, out, ahead, half, deep = np.float32(rows).T
        muscle = column(z, line(z) + side * m * out, m * ahead, m * half, m * deep, 2.6)
        canvas.paint(muscle.grown(COAT_MM).within(thigh), amounts("fat"), fat)
        canvas.paint(muscle.within(thigh), amounts("muscle"), part)
