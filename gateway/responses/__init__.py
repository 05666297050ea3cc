"""OpenAI's Responses API over chats: `request` is the way in, `form` the way out."""
