"""What the user named -> files: Hub, cache, local folder, adapter, bundled catalogue."""
