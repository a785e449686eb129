"""Measured speed: ours beside loops in the field's usual style."""
