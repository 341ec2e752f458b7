"""Images and sound in a batch: what a model's processor makes of them, and how many tokens they take."""
