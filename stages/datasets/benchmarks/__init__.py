"""The field's named benchmarks, each read from the files that its distributor gives, as they are unpacked."""
