"""Side by side with what people would use instead: `python -m benchmarks` runs all and writes reports/benchmarks."""
