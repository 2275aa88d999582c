"""One HTML file that shows a volume beside the truth, their difference and the uncertainty: `xdiff view` (NiiVue, vendored)."""
