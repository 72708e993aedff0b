"""Benchmarks: one command each, run from the root of the repository; see docs/performance.md."""
