"""The trust card of a model: what it keeps, what it invents, when not to use it, in sentences made from the long table alone."""

# Rows that no card is of: what a model has to beat, ceilings and controls. Told here, so that the workflow need not load pandas.
WITHOUT_CARD = (
    *("zeros", "mean_template", "nearest", "linear", "cubic", "retrieval"),
    *("population_mean", "field_posterior", "truth", "mask_linear"),
)
