"""The muscles of the embedded body that fat shows the borders of: of back, loin and buttock, of the thighs, inside the pelvis.

Lengths in mm of the layout that body_person.py describes.
"""

from __future__ import annotations

import numpy as np

from xdiff.data.body_bones import ilium_shell
from xdiff.data.body_person import Person
from xdiff.data.body_surface import Surface
from xdiff.data.body_tissues import amounts
from xdiff.data.solids import NOWHERE, Canvas, Profile, Solid, ball, column, rod


def paint_muscles(canvas: Canvas, person: Person, surface: Surface, parts: dict[str, int]) -> None:
    """The muscles that fat shows the borders of: of thigh, back, loin, buttock, and those inside the pelvis."""
    part, m, spine = parts["muscle"], person.muscle, person.spine
    for s in (-1, 1):
        _paint_thigh(canvas, person, surface, s, part, parts["intermuscular fat"])
        z = np.array((60, 98, 150, 220, 280, 360, 430, 500, 560, 600))
        x, y = spine.x(np.float32(z)), spine.y(np.float32(z))
        deep = np.array((-24, -30, -40, -42, -36, -28, -28, -26, -22, -22))
        erector = column(z, x + s * np.array((22, 30, 34, 34, 32, 28, 26, 24, 20, 18)), y + deep, m * np.array((8, 24, 30, 31, 28, 23, 20, 18, 13, 2)), m * np.array((6, 16, 23, 24, 21, 17, 14, 12, 10, 2)), 2.3)  # fmt: skip
        canvas.paint(erector.grown(2.2), amounts("fat"), parts["intermuscular fat"])
        canvas.paint(erector, amounts("muscle"), part)
        z = np.array((285, 240, 190, 140, 98))
        psoas = rod([*(spine.at(float(v), s * d, 0) for v, d in zip(z, (26, 34, 42, 48, 52), strict=True)), (s * 66, -2, 60), (s * 80, 26, 14), (s * 96, 14, -30), (s * 116, -8, -58)], m * np.array((6, 14, 20, 24, 24, 22, 17, 14, 8)))  # fmt: skip
        canvas.paint(psoas, amounts("muscle"), part)
        loin = ball((spine.at(170, s * 74, -16)), (26 * m, 12 * m, 62))
        canvas.paint(loin, amounts("muscle"), part)
    inner = Solid(
        lambda x, y, z: np.maximum(np.abs(ilium_shell(person, x, y, z) + 11) - 6.5, np.maximum(np.abs(z - 92) - 52, y - 44)),
        (-140, -70, 38),
        (140, 46, 146),
    )
    sides = Solid(lambda x, y, z: 52 - np.abs(x), NOWHERE, NOWHERE)
    canvas.paint(inner.within(sides), amounts("muscle"), part)
    _paint_septa(canvas, person, surface, parts["intermuscular fat"])


def _paint_septa(canvas: Canvas, person: Person, surface: Surface, part: int) -> None:
    """Fat between gluteal muscles, between ribs and the muscles outside them, and in the middle of the abdominal wall."""
    cavity, lean, spine = surface.cavity, surface.lean.grown(-5), person.spine
    chest = Solid(
        lambda x, y, z: np.maximum(np.abs(cavity.distance(x, y, z) - 13) - 1.1, np.maximum(300 - z - 0.5 * y, z - 490)),
        (cavity.low[0] - 16, cavity.low[1] - 16, 240),
        (cavity.high[0] + 16, cavity.high[1] + 16, 540),
    )
    line = Solid(lambda x, y, z: np.maximum(np.abs(x - spine.x(z) / 2) - 3.5, 30 - y), (-40, 30, 20), (40, 160, 380))
    canvas.paint(chest.within(lean.grown(3)), amounts("fat"), part)
    canvas.paint(line.within(surface.lean).without(cavity), amounts("fat"), part)
    septum = Solid(
        lambda x, y, z: np.maximum(np.abs(ilium_shell(person, x, y, z) - 30 - 0.1 * (z - 60)) - 1.8, np.maximum(y - 10, np.abs(z - 60) - 80)),
        (-190, -130, -20),
        (190, 12, 140),
    )
    canvas.paint(septum.within(lean, Solid(lambda x, y, z: 40 - np.abs(x), NOWHERE, NOWHERE)), amounts("fat"), part)  # fmt: skip


def _pointed(z: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Knots of a column whose last two values are its half widths, with a tendon at each end."""
    longer = [np.concatenate([[z[0] + 16], z, [z[-1] - 16]])]
    for i, v in enumerate(values):
        tendon = 0.2 if i >= len(values) - 2 else 1.0
        longer.append(np.concatenate([[v[0] * tendon], v, [v[-1] * tendon]]))
    return longer


# muscle: knots z, then (outwards, forwards) of its centre from the femur's line, half widths; all in mm
THIGH = {
    "vastus lateralis": ((-50, -150, -280, -380, -410), (24, 18, 14, 14, 16), (14, 14, 14, 10, 12), (10, 34, 33, 20, 6), (16, 40, 36, 20, 6)),
    "vastus medialis": ((-90, -180, -280, -370, -415), (-12, -12, -18, -20, -22), (20, 26, 26, 20, 16), (8, 22, 27, 26, 8), (8, 20, 22, 20, 8)),
    "rectus femoris": ((40, -30, -150, -260, -350), (4, -8, 0, -2, -2), (34, 44, 54, 48, 38), (10, 16, 21, 17, 8), (10, 14, 14, 13, 5)),
    "sartorius": ((60, -40, -160, -280, -400), (-4, -24, -42, -56, -50), (48, 46, 38, 14, -16), (9, 12, 12, 11, 9), (8, 8, 8, 10, 12)),
    "adductors": ((-10, -60, -150, -240, -320), (-40, -40, -46, -40, -34), (10, -2, -8, -8, -10), (12, 32, 35, 26, 6), (14, 34, 34, 24, 6)),
    "gracilis": ((-30, -120, -240, -400), (-62, -72, -62, -44), (10, -6, -22, -30), (6, 8, 9, 6), (14, 22, 18, 8)),
    "biceps femoris": ((-60, -140, -260, -380, -430), (-4, 6, 14, 24, 28), (-44, -50, -44, -38, -34), (12, 22, 25, 17, 8), (10, 22, 25, 19, 8)),
    "semitendinosus": ((-60, -140, -260, -380, -430), (-22, -28, -30, -26, -30), (-48, -54, -48, -40, -30), (12, 21, 25, 20, 8), (10, 19, 22, 17, 8)),
}  # fmt: skip


def _paint_thigh(canvas: Canvas, person: Person, surface: Surface, side: int, part: int, fat: int) -> None:
    """Every muscle in a thin coat of fat: what the next ones leave of it are the septa between them."""
    thigh = surface.thigh(side).grown(-1.5)
    middle = Profile((60, 0, -100, -250, -440), [side * (v + 60 * (person.hips - 1)) for v in (92, 98, 104, 102, 96)])
    m = person.muscle
    knee = column((-350, -400, -425, -450, -490), middle, (0, 0, 0, -2, -4), (2, 42, 47, 45, 2), (2, 44, 50, 44, 2))
    canvas.paint(knee.within(thigh), amounts("fat"), fat)
    for z, out, ahead, half, deep in THIGH.values():
        z, half, deep = np.float32(z), m * np.float32(half), m * np.float32(deep)
        x, y = middle(z) + side * m * np.float32(out), m * np.float32(ahead)
        z, x, y, half, deep = _pointed(z, x, y, half, deep)
        muscle = column(z, x, y, half, deep, 2.6)
        canvas.paint(muscle.grown(1.4).within(thigh), amounts("fat"), fat)
        canvas.paint(muscle.within(thigh), amounts("muscle"), part)
