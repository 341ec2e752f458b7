"""What a trainer changes of a model before its first step."""
