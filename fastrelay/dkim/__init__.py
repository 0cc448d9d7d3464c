"""DKIM signatures (RFC 6376, 8463): keys, signing, and what has to be in the DNS for them."""
