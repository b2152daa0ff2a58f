"""`hvdkit bench`: what collectives and steps cost here, and what they would cost elsewhere.

The driver (flags, jobs, allreduce, step, predict, tables) imports no framework; ranks import
theirs through `hvdkit.adapters`.
"""
