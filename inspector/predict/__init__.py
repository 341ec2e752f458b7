"""Runs to predictions: what is traced, what is extrapolated, and what is known already (`predictor.Predictor`)."""
