"""What differs between model families: the form of a prompt and of a picture. One file for each family."""
