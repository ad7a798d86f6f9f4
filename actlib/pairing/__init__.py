"""Whether two models can exchange channels: a quick check, and a report for people."""
