"""The compiled parts; one extension a file, sources in ext/fastrelay/_core."""
