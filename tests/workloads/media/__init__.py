"""Images and sound in the rows of a batch."""
