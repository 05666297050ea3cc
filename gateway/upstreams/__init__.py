"""The servers that are asked, and how: which of them, when, and how often again."""
