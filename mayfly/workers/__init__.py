"""What runs inside a worker process: the embed worker, the chat template and its generations."""
