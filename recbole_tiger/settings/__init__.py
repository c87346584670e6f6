"""Settings: read, put in their order of precedence, and checked before any work."""
