"""The commands, by what they work on: their options and the calls that make them."""
