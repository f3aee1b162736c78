"""Losses on pairs and proxies, and miners. ``kinds.py`` has their settings, and loads without torch.

::

    embeddings (B, E) --> cosines with batch and memory, some rows at a time --miner--> pairs --rule--> scalar

PyTorch Metric Learning (extra ``pairs``) supplies what a loss makes of its pairs, where it has the loss.
"""
