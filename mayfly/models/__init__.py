"""Model files: find, read, build and download them."""
