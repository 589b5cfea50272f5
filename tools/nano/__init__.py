"""Everything that remakes `models/mayfly-nano-demo.gguf`: see README.md in this folder."""
