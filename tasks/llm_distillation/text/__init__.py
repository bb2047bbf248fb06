"""Text to sequences of tokens: corpora, chats, packing."""
