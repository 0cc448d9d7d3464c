"""What is due when: message states, retries, expiry, suspensions."""
