"""What the Python API takes in many forms, as the records that it means."""
