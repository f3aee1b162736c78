"""Heads that learn what records are by several attributes at once.

::

    multilabel (trained)      feature -> hidden layer (the embedding) -> a classifier for each attribute, words
    posterior (closed form)   feature -> the posterior of each attribute, side by side (the embedding)

``kinds.py`` has their settings. ``labels.py`` reads the targets. ``network.py`` is the network, trained by
``tasks.py``. ``posterior.py`` is the closed form, fitted by ``fit_posterior.py`` with ``ridge.py``.
"""
