"""Servicers: requests of the contract to operations and back, nothing else."""
