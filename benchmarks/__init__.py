"""Side-by-side measurements: each prints one table and writes one file of ``results/``."""
