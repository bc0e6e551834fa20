"""Vision-language models: parts, base, adapters, data and tasks. Importing this package imports no torch."""
