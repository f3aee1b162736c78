"""The weights of a head in training: where they start, how they move, how they are averaged."""
