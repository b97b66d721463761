"""Studies of an experiment before it runs: its schedule, its horizon, its cost."""
