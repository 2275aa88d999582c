"""The outline of the embedded body: trunk and limbs without fat, fat under the skin, and the cavity that holds the organs.

Lengths in mm of the layout that body_person.py describes; tables are (z, half width, front, back) of cross-sections.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from xdiff.data.body_person import Person
from xdiff.data.body_tissues import amounts
from xdiff.data.implicit import both, union
from xdiff.data.solids import Canvas, Profile, Solid, ball, blended, column, rod

SKIN_MM = 2.0
TABLE_MM = -136.0
# muscle's outer surface
TRUNK = np.array(
    [
        (-46, 150, 56, -86),
        (0, 160, 76, -100),
        (60, 148, 84, -102),
        (120, 143, 86, -98),
        (180, 128, 86, -98),
        (240, 130, 91, -104),
        (300, 138, 98, -114),
        (360, 146, 102, -122),
        (420, 150, 99, -126),
        (470, 148, 84, -124),
        (510, 118, 62, -114),
        (540, 84, 42, -99),
        (570, 62, 30, -86),
        (600, 55, 25, -77),
        (660, 52, 24, -74),
        (720, 52, 26, -74),
    ]
)
# the pleural and peritoneal cavities with what lies behind the peritoneum
CAVITY = np.array(
    [
        (-46, 8, 6, -34),
        (-36, 26, 26, -52),
        (-12, 48, 44, -74),
        (30, 66, 62, -84),
        (80, 98, 70, -62),
        (120, 116, 72, -56),
        (180, 112, 72, -60),
        (240, 112, 76, -76),
        (300, 122, 82, -98),
        (360, 129, 84, -106),
        (420, 127, 74, -108),
        (470, 110, 50, -105),
        (510, 86, 22, -94),
        (540, 60, -6, -78),
        (564, 32, -24, -60),
    ]
)
# fat under the skin relative to the person's, by height: thigh, hip, abdomen, chest, neck
FAT_Z_MM = (-640, -470, -420, -300, -120, 0, 100, 200, 300, 420, 520, 600, 700)
FAT_MALE = (0.35, 0.4, 0.35, 0.5, 0.75, 1.1, 1.35, 1.2, 0.85, 0.7, 0.7, 0.5, 0.4)
FAT_FEMALE = (0.5, 0.5, 0.45, 0.8, 1.2, 1.35, 1.3, 1.05, 0.75, 0.7, 0.7, 0.5, 0.4)


class Surface:
    """The solids of one person's outline."""

    def __init__(self, person: Person) -> None:
        self.person = person
        p = person
        self.girth = Profile((-60, 60, 185, 320, 440, 540, 640), (p.hips, p.hips, p.waist, 1, p.shoulders, 1, 1))
        self.arms_out_mm = 0.35 * p.belly_mm + 1.1 * p.subcutaneous_mm - 8 + 150 * (p.hips - 1)

    def _section(self, table: np.ndarray, power: float) -> Solid:
        """A column of the trunk's tables with the person's girth and belly; it leans with the spine, half as far."""
        z, half, front, back = table.T
        girth = self.girth(np.float32(z))
        belly = self.person.belly_mm * np.exp(-(((z - 165) / 100) ** 2))
        front, half = front * girth**0.5 + belly, half * girth + 0.35 * belly
        lean = self.person.spine.x(np.float32(z)) / 2
        return column(z, lean, (front + back * girth**0.5) / 2, half, (front - back * girth**0.5) / 2, power)

    @cached_property
    def cavity(self) -> Solid:
        return self._section(CAVITY, 2.4)

    def thigh(self, side: int) -> Solid:
        z = (60, 0, -100, -200, -300, -380, -430, -480, -530, -600, -680)
        x = np.array((80, 88, 94, 95, 95, 95, 95, 96, 97, 97, 97))
        half = np.array((48, 70, 74, 72, 63, 54, 50, 49, 53, 52, 42)) * self.person.muscle
        deep = np.array((50, 78, 86, 79, 68, 59, 56, 52, 56, 55, 44)) * self.person.muscle
        y = np.array((-8, -8, -6, 1, 3, 0, -2, -8, -16, -18, -16))
        return column(z, side * (x + 60 * (self.person.hips - 1)), y, half, deep)

    def arm(self, side: int) -> Solid:
        z = (478, 450, 400, 340, 260, 200, 170, 120, 60, -20, -60, -110, -200)
        x = np.array((178, 188, 200, 209, 219, 227, 230, 236, 242, 248, 250, 252, 254)) + self.arms_out_mm
        half = np.array((30, 44, 44, 40, 36, 34, 36, 36, 31, 23, 19, 24, 10)) * self.person.muscle
        y = np.array((-34, -32, -32, -33, -36, -38, -36, -32, -26, -18, -14, -10, -4))
        return column(z, side * (x + 150 * (self.person.shoulders - 1)), y, half, half * 1.15)

    @cached_property
    def lean(self) -> Solid:
        """The body without what lies between muscle and skin."""
        s = self.person.shoulders
        parts = [self._section(TRUNK, 2.6)]
        for side in (-1, 1):
            buttock = ball((side * 66, -62, -12), (66, 52, 74))
            shoulder = rod([(side * 55, -45, 534), (side * 158 * s, -36, 486)], (38, 46))
            deltoid = ball((side * (176 * s + 0.4 * self.arms_out_mm), -34, 466), (40, 46, 62))
            parts += [self.thigh(side), buttock, shoulder, deltoid, self.arm(side)]
        return blended(parts, 26)

    def fat_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Thickness of the fat under the skin: more on the buttocks and flanks, less over the spine and on the arms."""
        p = self.person
        share = Profile(FAT_Z_MM, FAT_FEMALE if p.female else FAT_MALE)(z)
        buttock = 0.9 * np.exp(-(((z + 5) / 75) ** 2)) * np.clip(-y / 90, 0, 1)
        flank = 0.35 * np.exp(-(((z - 130) / 60) ** 2)) * np.clip(np.abs(x) / 140, 0, 1)
        inside = 1 - 0.5 * np.exp(-((x / 45) ** 2)) * np.clip((-z - 20) / 60, 0, 1)  # thighs touch
        arm = 1 - 0.5 * np.clip((np.abs(x) - 165 * p.shoulders) / 30, 0, 1) * np.clip((z + 260) / 80, 0, 1)
        return np.float32(p.subcutaneous_mm) * (share + buttock + flank) * arm * inside + np.float32(SKIN_MM)

    def breasts(self) -> list[Solid]:
        p = self.person
        size = (44 + 0.9 * p.subcutaneous_mm) / 60
        front = 88 * p.shoulders**0.5
        return (
            [ball((s * 86, front, 396), (66 * size, 44 * size, 66 * size), (12, 0, s * 20)) for s in (-1, 1)] if p.female else []
        )


def paint_outline(canvas: Canvas, surface: Surface, ragged: np.ndarray) -> np.ndarray:
    """Skin, fat and muscle (parts 1, 1, 3) over the whole canvas. `ragged` (X, Y, Z): relative unevenness of the fat's
    thickness. Returns the distance (X, Y, Z) in mm from the skin, negative inside.
    """
    lean = surface.lean.distance(*canvas.place)
    skin = lean - surface.fat_mm(*canvas.place) * (1 + ragged)
    for breast in surface.breasts():
        skin = union(skin, breast.distance(*canvas.place), 34)
    table = np.float32(TABLE_MM - 0.2 * surface.person.subcutaneous_mm) - canvas.place[1]
    skin = both(skin, table, 16)  # the back is flat where it lies on the table
    layers = (("skin", skin, 1), ("fat", skin + np.float32(SKIN_MM), 1), ("muscle", lean, 3))
    for tissue, distance, part in layers:
        canvas.cover(distance, amounts(tissue), part)
    for s, breast in zip((-1, 1), surface.breasts(), strict=False):
        gland = ball((s * 88, breast.high[1] - 34, 398), (22, 22, 24))
        canvas.paint(gland.without(surface.lean), amounts("gland", 0.45))
    return skin
