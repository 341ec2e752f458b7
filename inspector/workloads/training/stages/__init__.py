"""The stages beside supervised training, a file a stage: its batch, its loss, and the passes that its trainer runs."""
