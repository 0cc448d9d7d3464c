"""The administrator's way in: the control socket and its client."""
