"""The places a queued recipient can stand in, as the index numbers them (_core/index.pyx has the table)."""

UNPLACED, READY, RETRY, DNS, IN_FLIGHT, SUSPENDED, QUARANTINED, LOADING, UNSIGNED, SUPPRESSION = range(10)

# What people know each place as: what is in our own hands is in flight. READY gives way to its site's reason.
SHOWN = ("in_flight", "ready", "retry_backoff", "dns", "in_flight", "suspended", "quarantined", "in_flight",
         "no_dkim_key", "suppression")  # fmt: skip
