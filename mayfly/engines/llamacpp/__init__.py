"""The engine of llama.cpp, by its C API."""
