"""Composes the stages: run files, commands, tables, the demo. The only package that knows all three stages."""
