"""What makes files that the program ships; nothing here is needed to run it."""
