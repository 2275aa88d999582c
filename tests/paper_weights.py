"""What tests of the paper's method share: small parameters, weights that are all random, and assemblies of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from baselines import xdiff_paper
from baselines.xdiff_paper import IndependentSections, SliceDiffusion
from xdiff.checkpoint import read_weights, write_weights

PAPER = {"channels": [8, 16], "orientations": 3, "validate_subjects": 1, "steps": 0}
XDIFF = {"channels": [8, 16], "trunk_channels": [8, 16], "features": 4, "steps": 0, "validate_subjects": 1, "validate_k": [1]}


def scramble(folder: Path, out: Path, **params: object) -> Path:
    """Random numbers in every layer, the zero heads too, so that everything has an influence; `params` replace the entry's."""
    tensors, config = read_weights(folder)
    rng = np.random.default_rng(0)
    names = [name for name in tensors if name.startswith("network.")]
    changed = {name: tensors[name] + 0.05 * rng.standard_normal(tensors[name].shape, dtype=np.float32) for name in names}
    write_weights(out, tensors | changed, config | {"params": {**config["params"], **params}})
    return out


def with_assembly(folder: Path, out: Path, **assembly: object) -> SliceDiffusion | IndependentSections:
    """The same weights, put together otherwise."""
    tensors, config = read_weights(folder)
    write_weights(out, tensors, config | {"params": {**config["params"], "assembly": assembly}})
    return xdiff_paper.load(out)
