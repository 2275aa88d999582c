"""How far a prediction is from the truth, by region, on one fixed scale per volume."""
