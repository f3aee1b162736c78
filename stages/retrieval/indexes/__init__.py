"""Indexes of a gallery: the kinds there are, one that knows its keys, and the choice of one by budgets."""
