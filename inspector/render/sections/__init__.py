"""Report -> Document, one file a part of the report."""
