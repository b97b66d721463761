"""Devices and processes: the mesh, shardings, and several processes that share a run."""
