"""Pre-flight: what in the DNS, at the host and in the configuration would land mail in spam, and how it is mended."""
