"""The command line: shell text -> Request -> exit code."""
