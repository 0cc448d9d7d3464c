"""How fast mail may leave: rates, connection limits, warm-up, back-off."""
