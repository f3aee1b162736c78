"""The field's named benchmarks, each read from the files that its distributor gives, as they are unpacked.

To add one: write its file, a :class:`BenchmarkConfig` with a ``kind`` and ``rows``, and name it in
``stages.datasets.DatasetConfig``.
"""
