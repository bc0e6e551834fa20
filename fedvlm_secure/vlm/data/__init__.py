"""A hospital's rows and pictures: JSON Lines folders, `datasets` sources, and seeded phantoms."""
