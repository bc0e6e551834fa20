"""Generated from proto/fedvlm.proto; proto/README.md has the command."""
