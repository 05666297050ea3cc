"""Emoji-flow: a text-to-image model of 10 MB, in numpy alone."""
