"""What was found before, kept in the user's cache directory: answers, counts and tapes, for as long as they hold."""
