"""Metrics: every name once (names.py), and how they are gathered and served (collector.py, server.py)."""
