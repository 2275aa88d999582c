"""The bones of a knee as implicit shapes: a person (`Knee`) is a few numbers, and every function takes points of one frame.

Frames, all in mm, x to the outer (lateral) side, y to the front, z up, the joint line near z = 0: the tibia's, in which the
patella and the menisci lie; the femur's, turned about the centre of its condyles by flexion and torsion; and one of soft tissue,
which turns gradually from the one to the other. Sizes: adult knees, such as in Yue 2011 (J Arthroplasty).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from xdiff.data.implicit import Point, both, column, ellipsoid, ramp, union

AXIS_YZ = (2.0, 31.0)  # the condyles turn about this line along x
DRUM_MM = 30.0  # radius of their front part


@dataclass(frozen=True)
class Knee:
    """One person's knee. `size` scales all lengths; `side` is +1 for a right knee, -1 for a left one; angles in degrees."""

    side: int
    size: float
    flexion: float
    torsion: float
    valgus: float
    slope: float
    groove_mm: float
    notch_mm: float
    patella_up_mm: float
    patella_width_mm: float
    cartilage_mm: tuple[float, float, float]  # femur, tibia, patella
    meniscus_mm: tuple[float, float]  # width of the medial and of the lateral one
    effusion: float  # 0 to 1
    fat_mm: float
    muscle: float
    turn: tuple[float, float, float]  # of the whole leg on the table: about x, y, z
    shift_mm: tuple[float, float, float]
    lift_mm: float = 0.0  # of the femur, so that the cartilage of both bones finds room (`_seat`)


def draw_knee(rng: np.random.Generator) -> Knee:
    """A random person: men and women, lean and obese, healthy joints with none to a moderate effusion."""
    normal, uniform = rng.normal, rng.uniform
    knee = Knee(
        side=int(rng.choice([-1, 1])),
        size=float(np.clip(normal(0.98, 0.06), 0.86, 1.1)),
        flexion=uniform(0, 20),
        torsion=normal(0, 1.5),
        valgus=normal(6, 1.5),
        slope=float(np.clip(normal(5, 1.5), 1, 9)),
        groove_mm=uniform(4.5, 7.5),
        notch_mm=uniform(8.3, 10.5),
        patella_up_mm=uniform(-3, 4),
        patella_width_mm=uniform(20.5, 24),
        cartilage_mm=_floats(uniform((1.7, 1.7, 2.0), (2.5, 2.5, 3.0))),
        meniscus_mm=_floats(uniform((10, 10), (12.5, 13))),
        effusion=float(rng.beta(1, 2.5)),
        fat_mm=float(np.clip(rng.lognormal(np.log(8), 0.4), 3.5, 16)),
        muscle=uniform(0.9, 1.1),
        turn=_floats(normal((0, 0, 6), (2.5, 2, 5))),
        shift_mm=_floats(normal(0, (2.5, 2.5, 4))),
    )
    return replace(knee, lift_mm=_seat(knee))


def _seat(knee: Knee) -> float:
    """mm by which a femur that is not lifted yet must go up for the cartilage of the two bones to touch and no more."""
    axes = np.arange(-34, 35, 2), np.arange(-26, 20, 2), np.arange(-8, 20, 0.25)
    p = Point(*np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32))
    height, *outlines = plateau(p, knee)
    loaded = (np.minimum(*outlines)[..., 0] < -1) & (np.abs(p.x[..., 0]) > 11)
    above_tibia = np.where(femur(bend(p, knee), knee) < 0, height, np.inf).min(-1)
    return float((sum(knee.cartilage_mm[:2]) + 0.2) / knee.size - above_tibia[loaded].min())


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


# ---------------------------------------------------------------- frames


def tibia_frame(points_mm: np.ndarray, knee: Knee) -> Point:
    """World points (3, ...) in mm -> the frame of the tibia, a right knee of mean size."""
    turn = np.eye(3)
    for angle, (i, j) in zip(np.deg2rad(knee.turn), ((1, 2), (0, 2), (0, 1)), strict=True):
        step = np.eye(3)
        step[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
        turn = turn @ step
    # mirrored before it is turned: both feet point outwards
    matrix = ((turn / knee.size) * np.array([knee.side, 1, 1])).astype(np.float32)
    centred = points_mm - np.reshape(np.array(knee.shift_mm, np.float32), (3,) + (1,) * (points_mm.ndim - 1))
    return Point(*np.einsum("ij,j...->i...", matrix, centred))


def bend(p: Point, knee: Knee, share: np.ndarray | float = 1.0) -> Point:
    """Tibia frame -> the frame of what moves by `share` (0 to 1) with the femur: 1 the femur itself, less for soft tissue."""
    y0, z0 = AXIS_YZ
    angle, twist = (np.float32(np.deg2rad(a)) * share for a in (knee.flexion, knee.torsion))
    y, z = p.y - np.float32(y0), p.z - np.float32(z0) - share * np.float32(knee.lift_mm)
    y, z = y * np.cos(angle) + z * np.sin(angle) + y0, z * np.cos(angle) - y * np.sin(angle) + z0
    x, y = p.x * np.cos(twist) - y * np.sin(twist), y * np.cos(twist) + p.x * np.sin(twist)
    up = np.maximum(z - 20, 0)
    return Point(x - share * np.float32(np.tan(np.deg2rad(knee.valgus))) * up * up / (up + 20), y, z)


def on_femur(knee: Knee, x: float, y: float, z: float) -> tuple[float, float, float]:
    """A point that is fixed to the femur, in the tibia frame: `bend` backwards, by iteration."""
    goal = np.array([x, y, z], dtype=np.float64)
    guess = goal.copy()
    for _ in range(20):
        guess += goal - np.array(bend(Point(*guess), knee))
    return tuple(guess)


# ---------------------------------------------------------------- bones


def notch(p: Point, knee: Knee) -> np.ndarray:
    """The intercondylar notch (femur frame): a tunnel below Blumensaat's line, open below and behind."""
    roof = (p.y - 10) * 0.645 + (p.z - 7) * 0.764
    return both(np.abs(p.x) - knee.notch_mm, roof, 5)


def profile(x: np.ndarray, knee: Knee) -> tuple[np.ndarray, np.ndarray]:
    """By how many mm the drum is lower than its two ridges at `x`, and the outer facet of the trochlea higher than the inner."""
    across = np.sqrt(np.square(x - 1) + 9) - 22.5
    crown = np.square(across) / np.where(across < 0, 19.5**2 / knee.groove_mm, 2 * 20).astype(np.float32)
    return crown, 1.5 * np.tanh(x / 10)


def condyles(p: Point, knee: Knee) -> np.ndarray:
    """Both condyles and the trochlea (femur frame): a drum about AXIS_YZ with a groove, and a smaller one behind."""
    y0, z0 = AXIS_YZ
    crown, lateral = profile(p.x, knee)
    front = np.hypot(p.y - y0, p.z - z0) - DRUM_MM + crown - lateral * ramp(p.y, 5, 25)
    front = both(both(front, -12 - p.y, 8), p.z - 43, 8)
    rear = np.hypot(p.y + 10, p.z - 24) - 21 + crown - 0.8 * (p.x < 0)
    sides = np.abs(p.x) - 35 - 0.12 * np.clip(p.z, 0, 35)
    return both(union(front, rear, 6), sides, 8)


def femur(p: Point, knee: Knee) -> np.ndarray:
    knots = [(22, 0, -2, 36, 17), (32, 0, -3, 35, 19.5), (44, 0, -1, 28, 18.5), (58, 0, 2, 20, 16), (74, 0, 3, 16, 14.5)]
    shaft = column(p, [*knots, (160, 0, 4, 14, 14)])
    return both(union(condyles(p, knee), shaft, 9), -notch(p, knee), 4)


def plateau(p: Point, knee: Knee) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Height above the bony plateau, and the outlines (< 0 inside) of its medial and lateral halves (tibia frame)."""
    spines = 8 * np.exp(-np.square((p.x + 4.5) / 3.2) - np.square((p.y + 1) / 9))
    spines += 7 * np.exp(-np.square((p.x - 5) / 3.2) - np.square((p.y + 3) / 8))
    dish = 1.8 * np.exp(-(np.square(p.x + 22) + np.square(p.y + 4)) / 250)
    dish += 0.9 * np.exp(-(np.square(p.x - 22) + np.square(p.y + 3)) / 200)
    top = np.float32(np.tan(np.deg2rad(knee.slope))) * (p.y + 3) - 1.4 + spines - dish
    return p.z - top, *_halves(p.x, p.y)


def _halves(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of the plateau, medial and lateral."""
    return ellipsoid((x + 19, y + 4), (20.5, 25.5)), ellipsoid((x - 20, y + 3), (19.5, 22.5))


def tibia(p: Point, knee: Knee, height: np.ndarray) -> np.ndarray:
    """Plateau, tuberosity and shaft; `height` above the plateau as `plateau` gives it."""
    shrink = 1 - 0.55 * ramp(p.z, -8, -62)
    x, y = p.x / shrink, (p.y - 8) / shrink + 8
    outline = union(union(*_halves(x, y), 8), ellipsoid((x, y - 3), (19, 17.5)), 6) * shrink
    shaft = column(p, [(-120, 0, 0, 12.5, 15), (-75, 0, 1, 14, 17), (-45, 1, 2, 18, 19), (-20, 0, 0, 20, 18)])
    tuberosity = ellipsoid((p.x - 3, p.y - 20, p.z + 41), (9, 7.5, 13))
    return both(union(union(outline, shaft, 8), tuberosity, 8), height * 0.9, 3)


def fibula(p: Point) -> np.ndarray:
    shaft = column(p, [(-120, 34, -12, 6, 6.5), (-50, 36, -15, 6, 6), (-30, 38.5, -20, 7, 7), (-16, 40, -22.5, 5, 6)])
    return union(shaft, ellipsoid((p.x - 40, p.y + 22.5, p.z + 19), (8.5, 9.5, 10.5)), 4)


def patella(p: Point, knee: Knee) -> tuple[np.ndarray, np.ndarray]:
    """The bone, and the surface of its facets (< 0 in front of it): the trochlea's own profile, with room for cartilage."""
    crown, lateral = profile(p.x, knee)
    room_mm = (knee.cartilage_mm[0] + knee.cartilage_mm[2] + 0.6) / knee.size
    facets = 0.95 * (AXIS_YZ[0] + DRUM_MM + room_mm - crown + lateral - p.y)
    middle = AXIS_YZ[0] + DRUM_MM + room_mm - knee.groove_mm + 5.5
    body = ellipsoid((p.x - 1, p.y - middle, p.z - 27 - knee.patella_up_mm), (knee.patella_width_mm, 14, 21.5))
    return both(body, facets, 3), facets
