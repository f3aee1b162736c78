"""The commands, one a file: their options and the calls that make them."""
