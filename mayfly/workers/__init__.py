"""What runs inside a model's process: loading, serving, forking, and texts in batches."""
