"""Speed and memory of actlib against bare loops and other tools: `python -m benchmarks`."""
