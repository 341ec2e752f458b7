"""Records as one HTML file to look at: it loads nothing, and opens without a network."""
