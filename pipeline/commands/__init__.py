"""The commands: each file one command, its options and the calls that make it."""
