"""Composes the stages: run files, commands, tables, the demo. The only package that knows all three stages.

::

    <artifacts>/
        digests.sqlite, digests-<...>.parquet  the digests of unchanged files; of many, in the order of their dataset
        features/<backbone>-<...>/           stage 1: a store for each backbone's identity
        features/<backbone>-<...>.rows       the rows of a large one in one file, only to open it fast
        heads/<backbone>/<head>-<...>/       stage 2: head.safetensors and its training log
        heads/<backbone>/<...>.checkpoint    what a head in training goes on from when it is stopped
        tensorboard/<backbone>/<head>-<...>/ its epochs as events, where they are asked for
        embeddings/<backbone>/<head>-<...>/  a store for each head
        indexes/<backbone>/<head>-<...>/     the index of its gallery, where one was asked for
        scores/<run>.jsonl                   stage 3: the last scores of the run file of that name
        scores/<run>.parquet                 the value of every query that they are means of
"""
