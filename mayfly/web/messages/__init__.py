"""Anthropic's API of messages: the same calls as those of OpenAI's chats, in another form."""
