"""The field's named benchmarks, each read from the files that its distributor gives: docs/datasets.md lists them."""
