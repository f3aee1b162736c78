"""Search over HTTP, for programs and for people: ``permafrost serve``."""
