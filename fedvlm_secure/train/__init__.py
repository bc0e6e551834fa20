"""Local training at one hospital. Importing this package imports no torch."""
