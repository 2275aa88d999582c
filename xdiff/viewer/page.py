"""The viewer as one HTML file with NiiVue, its script and the volumes inside: it opens from the disk and asks no network.

One file and not a folder with a server, because Chromium lets a page from file:// fetch no other file; it needs no Python where
it is read, and its content security policy forbids every request but those for its own data.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from xdiff.planes import AXIS_NAMES, AnyPlane, Plane
from xdiff.viewer.panels import Panel, given_mask
from xdiff.volumes import write_volume

FOLDER = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:;"
    " font-src data:; connect-src data: blob:; worker-src blob:"
)
FRAME = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width"><title>{title}</title><style>{css}</style></head>
<body><header><h1>{title}</h1><p id="facts">{facts}</p></header>
<div id="bar"><span id="given"></span><label><input type="checkbox" id="show" checked> mark given slices</label>
<span id="place" aria-live="polite"></span></div>
<main id="panels"></main>
<footer>Radiological convention: the patient's right (R) is on the left of the screen. A, P, S, I, L: anterior, posterior,
superior, inferior, left. Click or drag moves the crosshair in all panels, the wheel goes through the slices.
<b>Reconstructed intensities are synthetic: not for diagnosis.</b></footer>
<script type="application/json" id="data">{data}</script>
<script>{niivue}</script><script>{script}</script></body></html>
"""


def page(title: str, facts: Sequence[str], panels: Sequence[Panel], planes: Sequence[AnyPlane], affine: np.ndarray) -> str:
    """The HTML of panels (X, Y, Z) on voxels with `affine` (4, 4) to RAS mm. facts: short sentences about how it was made."""
    data = {
        "panels": [_plain(p, affine) for p in panels],
        "given": _volume(given_mask(planes, panels[0].array.shape), affine) if planes else "",
        "planes": [
            {"axis": p.axis, "index": p.index, "name": f"{AXIS_NAMES[p.axis]} {p.index}"} for p in planes if isinstance(p, Plane)
        ],
    }
    return FRAME.format(
        policy=POLICY,
        title=escape(title),
        facts=" · ".join(map(escape, facts)),
        css=(FOLDER / "viewer.css").read_text(encoding="utf-8"),
        data=json.dumps(data).replace("<", "\\u003c"),
        niivue=(FOLDER / "niivue.umd.js").read_text(encoding="utf-8").replace("</script", "<\\/script"),
        script=(FOLDER / "viewer.js").read_text(encoding="utf-8"),
    )


def _plain(panel: Panel, affine: np.ndarray) -> dict:
    keys = ("label", "note", "colours", "low", "high", "synthetic")
    return {**{k: getattr(panel, k) for k in keys}, "volume": _volume(panel.array, affine)}


def _volume(array: np.ndarray, affine: np.ndarray) -> str:
    """The array as a gzipped NIfTI file in base64."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii.gz"
        write_volume(path, array, affine)
        return base64.b64encode(path.read_bytes()).decode()
