"""What runs the rows of a table: one after the other, or in blocks by Picard sweeps."""
