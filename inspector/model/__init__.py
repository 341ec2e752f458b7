"""Files -> model on the meta device -> counts: configuration, skeleton, adapter, census."""
