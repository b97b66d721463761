"""Passes over the rows of a data set, and the arithmetic that they need."""
