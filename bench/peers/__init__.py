"""What embeddings.py measures mayfly against: what each needs (NAME.txt), and how it is run."""
