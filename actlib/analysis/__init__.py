"""Tables in, numbers and pictures out; nothing here imports torch."""
