"""The field's named benchmarks, each read from the files that its distributor gives, as they are unpacked.

To add one: write a :class:`BenchmarkConfig` with a ``kind`` and ``_rows``, and name it in
``stages.datasets.DatasetConfig``.
"""
