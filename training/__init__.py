"""Training: from the same events, through the same absorb, to a model file that workers take over."""
