"""Every effect on the host process, in one place."""
