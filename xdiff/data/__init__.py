"""From files on disk to a store of volumes on one grid, and the split of its patients."""
