"""The `fedvlm` command."""
