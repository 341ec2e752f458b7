"""The measure stage: a model and a recipe -> the same step for real on the GPU at hand, beside its prediction."""
