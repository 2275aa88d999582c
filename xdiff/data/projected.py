"""A projection beside a volume, such as a DXA image beside a Dixon MRI, as one contrast more: the same in every section.

A projection is what a plane that covers a whole axis shows of a volume (planes.Plane.projection). An image of another kind is no
mean of the MR signal; spread evenly along the axis it becomes a contrast whose projection it is, and everything that knows how to
give some contrasts of some planes - the linear-Gaussian core, networks, the harness - can be given it and nothing else.

The image is laid on the MRI by registration to it (dxa.py). That is a small leak, as frame `centred` is: at the time of use
there is no MRI to lay it on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdiff.config import Projection
from xdiff.errors import InputError
from xdiff.planes import AXES
from xdiff.volumes import read_image

BASIS = ("fat", "water")  # what a DXA image is laid on


def read_projection(path: Path, projection: Projection, images: dict[str, np.ndarray], affine: np.ndarray) -> np.ndarray:
    """The projection of one subject, registered to its volumes and the same in every section: (X, Y, Z) float32.

    images: contrast -> (X, Y, Z); affine (4, 4) of them. Raises InputError where it cannot be laid on them.
    """
    from xdiff.data.dxa import register_dxa

    missing = [name for name in BASIS if name not in images]
    if missing:
        raise InputError(path, f"contrasts {list(images)}", f"{' and '.join(BASIS)}, which the projection is laid on")
    if projection.axis != "coronal":
        raise InputError(path, f"a projection along the {projection.axis} axis", "coronal, as DXA is taken")
    image = read_image(path)
    flat, _, _ = register_dxa(image.array, image.affine, images["fat"], images["water"], affine, where=str(path))
    return np.repeat(flat.astype(np.float32), images["fat"].shape[AXES[projection.axis]], axis=AXES[projection.axis])
