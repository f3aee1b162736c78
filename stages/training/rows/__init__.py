"""The rows that a head learns from: where they lie, which are held out, and which make a batch."""
