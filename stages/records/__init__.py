"""Records: a dataset as an Arrow table, one line an image, with the digest of its bytes."""

from stages.records.records import COLUMNS, Records, read_records

__all__ = ["COLUMNS", "Records", "read_records"]
