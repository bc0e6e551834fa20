"""From a row to model inputs, and from generated text to a score."""
