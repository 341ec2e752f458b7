"""What stands between a config.json that anybody may have written and the classes that are built from it."""
