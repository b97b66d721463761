"""Speed as ratios within one run: a score against its matrix products, or scores side by side."""
