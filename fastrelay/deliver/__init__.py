"""Connections to MX hosts: pools for each site, connecting, streaming of large bodies."""
