"""The options of the command by what they are about, a file a matter."""
