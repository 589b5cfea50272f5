"""OpenAI's API of responses, which its clients call by default: the same calls as those of chats, in another form."""
