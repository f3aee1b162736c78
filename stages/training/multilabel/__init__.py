"""Heads that learn what records are by several attributes at once.

::

    multilabel (trained)      feature -> hidden layer (the embedding) -> a classifier for each attribute, words
    posterior (closed form)   feature -> the posterior of each attribute, side by side (the embedding)

``labels.py`` reads the targets, ``tasks.py`` are what a network learns, ``fit_posterior.py`` fits the closed form.
"""
