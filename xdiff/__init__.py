"""xdiff: a 3D MRI volume from one slice or a few, and an honest measurement of it."""

__version__ = "0.1.0"
