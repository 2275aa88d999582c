"""Methods to compare with, one file each: `train` where something is learned, and `load`."""
