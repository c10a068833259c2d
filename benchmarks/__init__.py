"""Benchmarks: each measures ours and its peers side by side, in one run, on one machine."""
