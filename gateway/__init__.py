"""Dragoman: OpenAI's API in front of servers that speak their models' native API."""

__version__ = "0.1.0"
