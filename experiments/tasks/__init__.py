"""Data sets to learn from: each file has the data, the split, the augmentation and the network."""
