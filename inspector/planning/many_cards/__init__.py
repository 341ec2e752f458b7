"""`inspect plan --gpus 1-64`: how a model is trained on several cards, strategy by strategy and recipe by recipe."""
