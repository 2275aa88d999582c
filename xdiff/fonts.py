"""The font of the figures: matplotlib's DejaVu Sans cut down to Latin letters once per process.

Every PDF holds the glyphs that it uses, and finding them among six thousand took a fifth of the time of drawing."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager

FAMILY = "xdiff Sans"
_CHARACTERS = "".join(map(chr, (*range(0x20, 0x7F), *range(0xA0, 0x180), 0x2013, 0x2014, 0x2019, 0x2026, 0x2212)))
_FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
_FAMILY_NAMES = (1, 4, 16)  # of the table `name` of a TrueType font


@cache
def register() -> None:
    """Make FAMILY known to matplotlib in this process; other characters still come from DejaVu Sans itself."""
    from fontTools import subset, ttLib  # 0.3 s to import: paid only by those who draw

    for name in _FILES:
        font = ttLib.TTFont(Path(mpl.get_data_path()) / "fonts/ttf" / name, recalcTimestamp=False)
        cutter = subset.Subsetter(subset.Options(drop_tables=["FFTM"]))
        cutter.populate(text=_CHARACTERS)
        cutter.subset(font)
        for record in font["name"].names:
            if record.nameID in _FAMILY_NAMES:
                record.string = FAMILY
        kept = Path(_folder().name) / name
        font.save(kept)
        font_manager.fontManager.addfont(kept)


@cache
def _folder() -> tempfile.TemporaryDirectory:
    """Goes with the process: matplotlib opens a font again for every size of letters."""
    return tempfile.TemporaryDirectory(prefix="xdiff-fonts-")
