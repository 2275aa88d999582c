"""What the paper printed, kept apart from what is measured here."""

from __future__ import annotations

from xdiff.markup import Cell, Table

SOURCE = "arXiv 2404.19604"
CAVEAT = (
    f"As printed by the paper ({SOURCE}), under its own protocol: 3D PSNR (dB), region, data range and axis unstated. "
    "Not comparable with what is measured here."
)
KS = (1, 2, 3, 5, 10, 31)
# data set -> method -> PSNR (dB) at KS
PRINTED = {
    "BraTS": {
        "ScoreMRI": (9.37, 10.25, 10.68, 12.37, 14.31, 29.24),
        "TPDM": (10.48, 10.86, 11.33, 14.13, 16.65, 31.48),
        "X-Diffusion": (23.1, 25.2, 29.43, 31.25, 33.27, 35.48),
    },
    "UKB": {
        "ScoreMRI": (8.54, 9.16, 10.42, 11.88, 13.24, 19.01),
        "TPDM": (9.29, 9.99, 11.09, 12.62, 15.88, 21.70),
        "X-Diffusion": (22.42, 23.04, 25.26, 26.85, 27.44, 29.01),
    },
}


def table() -> Table:
    """The paper's own table: methods x K, for both of its data sets."""
    columns = tuple((name, f"K = {k}") for name in PRINTED for k in KS)
    rows = ((m, tuple(Cell(f"{value:.2f}") for own in PRINTED.values() for value in own[m])) for m in PRINTED["BraTS"])
    return Table("The paper's own numbers", CAVEAT, columns, tuple(rows))
