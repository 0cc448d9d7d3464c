"""Outbound SMTP relay for bulk newsletter sending on dedicated sending hosts."""

__version__ = "0.1.0"
