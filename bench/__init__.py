"""Benchmarks of the real processes, run by hand as `python -m bench`. No test judges a figure of theirs."""
