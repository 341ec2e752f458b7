"""The data dictionary: every value that crosses a stage, one file a stage."""
