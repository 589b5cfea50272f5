"""Real models, by gpt4all 2.8.2: its library and what is odd about it, and the engines that it makes."""
