"""A package such as a user may have: one part of every kind, and their options."""
