"""Clips inside of larger files (tar, zip, parquet), on a disk or on a server, as bytes."""
