"""Side-by-side timings against peers, and the protocols of papers. Results: ``benchmarks/results/*.json``."""
