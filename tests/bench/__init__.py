"""Benchmarks: speed, memory and effect, measured through the product's own services."""
