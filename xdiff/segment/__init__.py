"""Is the tumour still there? nnU-Net on real and generated volumes, and the scores of what it finds."""
