"""TLS: what a domain's mail needs and gets (policy, MTA-STS, DANE), contexts, certificates, reports."""
