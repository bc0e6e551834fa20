"""What a run leaves for its readers: a summary as JSON and as one self-contained page."""
