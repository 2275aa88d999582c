"""Muscles, vessels and the outline of a knee as upright columns in the frame of soft tissue (knee_bones.py), as
`implicit.column` takes them: z, centre x and y, radius in x and in y, all in mm, from below upwards.
"""

from __future__ import annotations

Knots = list[tuple[float, float, float, float, float]]

# Drawn in this order, with a millimetre of fat between them.
MUSCLES: tuple[tuple[str, Knots], ...] = (
    (
        "vastus_medialis",
        [(14, -36, 14, 1, 2), (22, -37, 15, 6, 9), (40, -34, 16, 13, 15), (60, -30, 17, 18, 19), (160, -28, 17, 22, 21)],
    ),
    ("vastus_lateralis", [(36, 37, 14, 1, 2), (48, 35, 14, 9, 14), (70, 32, 16, 16, 19), (160, 31, 16, 20, 21)]),
    ("vastus_intermedius", [(48, 2, 24, 1, 1), (60, 1, 26, 9, 5), (75, 0, 28, 16, 9), (160, 0, 28, 22, 13)]),
    (  # biceps femoris, to the head of the fibula
        "hamstrings",
        [(-14, 41, -25, 2, 2), (5, 41, -31, 6, 7), (30, 37, -37, 9, 10), (55, 31, -42, 14, 12), (160, 26, -45, 19, 16)],
    ),
    (  # semimembranosus and semitendinosus
        "hamstrings",
        [(-10, -26, -29, 4, 4), (5, -27, -37, 9, 8), (30, -24, -43, 13, 10), (55, -19, -45, 18, 13), (160, -14, -48, 21, 15)],
    ),
    ("sartorius_gracilis", [(-35, -35, -8, 2, 6), (0, -43, -22, 3, 8), (40, -45, -22, 5, 10), (160, -48, -14, 8, 13)]),
    (
        "gastrocnemius",
        [
            (-120, -20, -46, 22, 17),
            (-60, -21, -47, 23, 17),
            (-25, -21, -46, 19, 14),
            (0, -21, -41, 14, 9),
            (20, -19, -37, 8, 6),
            (36, -18, -30, 2, 2),
        ],
    ),
    (
        "gastrocnemius",
        [
            (-120, 22, -45, 19, 16),
            (-60, 22, -46, 20, 16),
            (-25, 22, -44, 17, 13),
            (0, 22, -41, 12, 8),
            (20, 21, -37, 8, 6),
            (36, 20, -30, 2, 2),
        ],
    ),
    (  # popliteus, soleus, tibialis posterior
        "deep_calf",
        [(-120, 4, -26, 34, 17), (-60, 4, -25, 32, 14), (-35, 3, -25, 28, 10), (-18, 3, -25, 17, 6), (-6, 8, -23, 3, 2)],
    ),
    ("anterolateral_calf", [(-120, 28, 4, 16, 17), (-50, 28, 5, 13, 14), (-30, 28, 7, 7, 9), (-18, 29, 6, 1, 2)]),
)

VESSELS: tuple[tuple[str, Knots], ...] = (
    (
        "popliteal_artery",
        [
            (-120, 2, -31, 2.6, 2.6),
            (0, 1, -32, 3.1, 3.1),
            (35, 0, -34, 3.3, 3.3),
            (70, -4, -24, 3.4, 3.4),
            (160, -14, -8, 3.4, 3.4),
        ],
    ),
    (
        "popliteal_vein",
        [(-120, 7, -34, 3, 2.6), (0, 6, -38, 4, 3.4), (35, 5, -41, 4.2, 3.6), (70, 2, -31, 4.2, 3.6), (160, -8, -14, 4.2, 3.6)],
    ),
)

BELOW_FASCIA: Knots = [
    (-120, 2, -18, 49, 46),
    (-50, 2, -17, 50, 47),
    (-20, 0, -12, 47, 43),
    (5, 0, -8, 46, 44),
    (30, 0, -7, 47, 48),
    (55, -1, -8, 51, 51),
    (100, -3, -10, 60, 58),
    (160, -3, -10, 64, 62),
]
