"""Sampling methods, each a table of coefficients."""
